"""Source to target by the real command: learnt, measured, reported, exported, written, and gone on with."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NEW = ["--set", "weights=scratch", "--set", "shape.layers=2", "--set", "shape.width=32", "--set", "shape.context=64"]
SHORT = [
    "--set",
    "train.threads=1",
    "--set",
    "train.lr=0.01",
    "--set",
    "train.batch_size=16",
    "--set",
    "seq2seq.max_new_tokens=32",
    "--set",
    "split.val_fraction=0.1",
    "--set",
    "split.test_fraction=0.2",
]
FILES = {
    "recipe.json",
    "request.json",
    "log.txt",
    "train.jsonl",
    "eval.json",
    "targets.csv",
    "attention.json",
    "data/card.json",
    *(
        f"data/{split}.{rest}"
        for split in ("train", "val", "test")
        for rest in ("jsonl", "source.ids", "source.ends", "target.ids", "target.ends")
    ),
    "report/index.html",
    "report/report.md",
    "export/hf/config.json",
    "export/hf/model.safetensors",
    "export/hf/vocab.json",
    "export/hf/merges.txt",
    "export/hf/tokenizer_config.json",
    "export/hf/generation_config.json",
    "export/hf/seq2seq.json",
    "export/hf/README.md",
    "export/hf/MANIFEST.json",
}


@pytest.fixture
def pairs(tmp_path):
    lines = [f"{n}\tthe digits {WORDS[n // 10]} and {WORDS[n % 10]}" for n in range(100)]
    lines = ["digits\tin words", *lines, "100\t", "\tnothing"]
    Path("pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "data=pairs.tsv"


def run(finetune, family, pairs, *more, start=NEW):
    return finetune("run", "seq2seq", "--set", pairs, "--set", f"seq2seq.family={family}", *start, *SHORT, *more)


def files_of(directory):
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(("stages/", "checkpoints/", "base/", "."))}


@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_targets_are_learned_measured_reported_exported_and_written(finetune, tmp_path, pairs, family):
    done = run(finetune, family, pairs, "--set", "train.epochs=6")
    assert done.status == 0, done.err
    directory = tmp_path / "runs" / "seq2seq"
    assert files_of(directory) == FILES

    card = json.loads((directory / "data" / "card.json").read_text())
    assert card["columns"] == ["digits", "in words"] and sum(card["dropped"].values()) == 2
    evaluation = json.loads((directory / "eval.json").read_text())
    assert (evaluation["task"], evaluation["family"], evaluation["headline"]["n"]) == ("seq2seq", family, 20)
    test = next(loss for loss in evaluation["losses"] if loss["split"] == "test")
    assert test["after"]["value"] < 0.7 * test["before"]["value"]
    rows = list(csv.DictReader(io.StringIO((directory / "targets.csv").read_text(encoding="utf-8"))))
    outputs, references = [row["output"] for row in rows], [[row["reference"] for row in rows]]
    assert evaluation["metrics"]["bleu"]["value"] == pytest.approx(
        BLEU().corpus_score(outputs, references).score, abs=1e-6
    )
    assert evaluation["metrics"]["chrf"]["value"] == pytest.approx(
        CHRF().corpus_score(outputs, references).score, abs=1e-6
    )
    long = finetune("generate", directory, "1 " * 200)
    assert long.status == 0 and "the source has " in long.err and "are read" in long.err
    html = (directory / "report" / "index.html").read_text(encoding="utf-8")
    assert html.count("<script") == 1 and "sacrebleu" in html.lower()

    said = finetune("generate", directory, rows[0]["source"], "--max-new-tokens", "32")
    assert said.status == 0 and said.out.strip() == outputs[0]
    assert finetune("generate", directory, rows[0]["source"], "--samples", "2", "--max-new-tokens", "2").status == 0
    again = run(finetune, family, pairs, "--set", "train.epochs=6")
    assert "nothing left to do" in again.out


def test_the_decoders_export_writes_the_same_in_transformers(finetune, tmp_path, pairs):
    from transformers import AutoTokenizer, GPT2LMHeadModel

    assert run(finetune, "decoder", pairs, "--set", "train.epochs=2").status == 0
    directory = tmp_path / "runs" / "seq2seq"
    model = GPT2LMHeadModel.from_pretrained(directory / "export" / "hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(directory / "export" / "hf")
    rows = list(csv.DictReader(io.StringIO((directory / "targets.csv").read_text(encoding="utf-8"))))
    for row in rows[:5]:
        ids = torch.tensor([[*tokenizer(row["source"])["input_ids"], tokenizer.eos_token_id]])
        new = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=32,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )[0, ids.shape[1] :].tolist()
        new = new[: new.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in new else new
        assert tokenizer.decode(new).strip() == row["output"]


def test_the_encoder_decoder_writes_the_same_in_transformers(finetune, tmp_path, pairs):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    done = run(finetune, "encoder-decoder", pairs, "--set", "train.epochs=2")
    assert done.status == 0 and "transformers gives the same logits" in done.out, done.err
    directory = tmp_path / "runs" / "seq2seq"
    model = AutoModelForSeq2SeqLM.from_pretrained(directory / "export" / "hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(directory / "export" / "hf")
    rows = list(csv.DictReader(io.StringIO((directory / "targets.csv").read_text(encoding="utf-8"))))
    sources = tokenizer([row["source"] for row in rows[:5]], return_tensors="pt", padding=True)
    texts = tokenizer.batch_decode(model.generate(**sources), skip_special_tokens=True)
    assert [text.strip() for text in texts] == [row["output"] for row in rows[:5]]

    readme = (directory / "export" / "hf" / "README.md").read_text(encoding="utf-8").partition("or in transformers")[2]
    code = "\n".join(line[4:] for line in readme.splitlines() if line.startswith("    "))
    long = "1 " * 200
    names: dict = {}
    exec(code.replace('"DIRECTORY"', repr(str(directory / "export" / "hf"))).replace("a source", long), names)
    ours = finetune("generate", directory, long)
    assert f"only the first {names['source']['input_ids'].shape[1]} are read" in ours.err
    written = names["tokenizer"].decode(names["model"].generate(**names["source"])[0], skip_special_tokens=True)
    assert written.strip() == ours.out.strip()


@pytest.mark.parametrize("method", ["full", "last-blocks", "lora"])
def test_an_interrupted_training_resumes_to_the_same_bits(finetune, tmp_path, pairs, monkeypatch, method):
    from finetune.training import resume

    more = ["--set", f"train.method={method}", "--set", "train.epochs=2", "--set", "train.dropout=0.1"]
    more += ["--set", "train.lora_rank=2"] if method == "lora" else []
    assert run(finetune, "encoder-decoder", pairs, "--name", "whole", "--until", "train", *more).status == 0
    (tmp_path / "runs" / "whole").rename(tmp_path / "whole")  # out of reach, so that nothing is taken over from it
    prune, seen = resume.prune, []

    def stop_after_the_first(root, step, best):
        prune(root, step, best)
        seen.append(step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(resume, "prune", stop_after_the_first)
        assert run(finetune, "encoder-decoder", pairs, "--name", "broken", "--until", "train", *more).status == 130
    assert run(finetune, "encoder-decoder", pairs, "--name", "broken", "--until", "train", *more).status == 0
    whole, broken = (
        sorted((tmp_path / name / "checkpoints").glob("step-*/weights.safetensors"))
        for name in ("whole", "runs/broken")
    )
    assert seen and [path.parent.name for path in whole] == [path.parent.name for path in broken]
    assert [path.read_bytes() for path in whole] == [path.read_bytes() for path in broken]


def test_weights_that_write_targets_can_go_on(finetune, tmp_path, pairs):
    assert run(finetune, "encoder-decoder", pairs, "--name", "first", "--set", "train.epochs=1").status == 0
    first = tmp_path / "runs" / "first"
    start = ["--set", f"weights={first}", "--set", "train.epochs=1"]
    done = run(finetune, "encoder-decoder", pairs, "--name", "second", start=start)
    assert done.status == 0, done.err
    before, after = (json.loads((tmp_path / "runs" / name / "eval.json").read_text()) for name in ("first", "second"))
    assert after["losses"][0]["before"]["value"] == pytest.approx(before["losses"][0]["after"]["value"], rel=1e-4)
    for wrong in (("run", "pretrain"), ("run", "spam-classifier")):
        refused = finetune(*wrong, "--set", f"weights={first}", "--name", "wrong")
        assert refused.status == 2 and "an encoder-decoder's weights" in refused.err
    drawn = finetune("draw", "attention", "--weights", first, "--text", "four two")
    assert drawn.status == 0 and list(Path("pictures").glob("attention-cross-layer-*.svg")), drawn.err
    for command, words in (
        (("draw", "positions", "--weights", first), "cannot draw an encoder-decoder"),
        (("predict", first, "42"), "finetune generate"),
        (("chat", first), "task instruct"),
        (("export", first, "--format", "peft"), "Export it with --format hf"),
    ):
        refused = finetune(*command)
        assert refused.status == 2 and words in refused.err, refused.err
    refused = run(finetune, "decoder", pairs, "--name", "wrong", start=start)
    assert refused.status == 2 and "seq2seq.family=decoder" in refused.err


def test_a_test_file_stays_whole_and_what_it_shares_is_counted(finetune, tmp_path, pairs):
    Path("held.csv").write_text("in words,digits\nfour two,42\nten ten ten,101010\nempty,\n", encoding="utf-8")
    done = run(finetune, "decoder", pairs, "--until", "prepare", "--set", "test=held.csv")
    assert done.status == 0, done.err
    data = tmp_path / "runs" / "seq2seq" / "data"
    test = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    assert [(record["source"], record["target"]) for record in test] == [("42", "four two"), ("101010", "ten ten ten")]
    card = json.loads((data / "card.json").read_text())
    seen = sum(card["overlap"][f"test_in_{side}"]["normalised"] for side in ("train", "val"))
    assert seen == 1 and card["splits"]["train"]["records"] == 90 and sum(card["dropped"].values()) == 3


@pytest.mark.parametrize(
    "settings, words",
    [
        (["train.method=head"], "method head has nothing to train here"),
        (["split.protocol=balanced"], "needs a labelled table"),
        (["seq2seq.source=nothing"], "nothing"),
        (["columns.text=digits"], "columns.text has no effect in seq2seq"),
        (["seq2seq.length_penalty=2"], "only beam search"),
        (["train.metric=accuracy"], "train.metric"),
        (["seq2seq.family=both"], "family"),
    ],
)
def test_bad_settings_are_refused_in_words(finetune, pairs, settings, words):
    done = run(finetune, "decoder", pairs, *(word for setting in settings for word in ("--set", setting)))
    assert done.status == 2 and words in done.err, done.err


def test_a_dry_run_says_time_and_memory(finetune, tmp_path, pairs):
    done = run(finetune, "encoder-decoder", pairs, "--dry-run")
    assert done.status == 0 and "peak memory of training" in done.out, done.err
    assert not (tmp_path / "runs").exists()
