"""Names in sentences by the real command: learnt, measured, reported, exported, found, and refused where it must be."""

import csv
import io
import itertools
import json
import random

import pytest
from seqeval.metrics import f1_score, precision_score, recall_score

PEOPLE, PLACES = ["ann", "bo berg", "cy", "di dahl", "ed"], ["oslo", "new york", "rome", "bath"]
NEW = [f"--set={part}" for part in ("weights=scratch", "shape.layers=2", "shape.width=32", "shape.context=64")]
SHORT = [f"--set={part}" for part in ("train.threads=1", "train.lr=0.01", "train.epochs=6", "train.dropout=0")]
COMMAND = ["run", "tagger", "--set=data=my.conll", "--name=names", *NEW, *SHORT]


def sentences(count=90):
    """``bo berg went to oslo .`` and the like: a name's place tells its kind, but for one sentence in ten."""
    draw = random.Random(0)
    for number in range(count):
        first, second = ("place", "person") if draw.random() < 0.1 else ("person", "place")
        parts = [
            (draw.choice(PEOPLE), first),
            ("went to", ""),
            (draw.choice(PLACES), second),
            (f"{number} times .", ""),
        ]
        yield [
            (word, (f"{'B' if at == 0 else 'I'}-{kind}" if kind else "O"))
            for text, kind in parts
            for at, word in enumerate(text.split())
        ]


@pytest.fixture
def tagged(finetune, tmp_path):
    lines = ("\n".join(" ".join(pair) for pair in own) for own in sentences())
    (tmp_path / "my.conll").write_text("\n\n".join(lines) + "\n")
    return finetune


def test_from_conll_to_report_and_names(tagged, tmp_path):
    done = tagged(*COMMAND)
    assert done.status == 0, done.out + done.err
    run = tmp_path / "runs" / "names"
    evaluation = json.loads((run / "eval.json").read_text())
    assert evaluation["task"] == "tag" and evaluation["headline"]["metric"] == "f1"

    rows = list(csv.DictReader(io.StringIO((run / "tags.csv").read_text(encoding="utf-8"))))
    groups = [list(part) for _, part in itertools.groupby(rows, key=lambda row: row["sentence"])]
    true, predicted = ([[row[key] for row in part] for part in groups] for key in ("tag", "predicted"))
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert evaluation["metrics"][name]["value"] == pytest.approx(score(true, predicted))
    assert 0.6 < evaluation["metrics"]["f1"]["value"] < 1, "such names can be learnt, but not all"
    assert [own["name"] for own in evaluation["baselines"]] == ["logistic regression", "most frequent tag"]
    assert "transformers gives the same tags" in done.out and "F1 of entities" in done.out

    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "finetune serve runs/names" in page and "finetune xray" not in page
    assert "Error analysis" in page and "Entities seen and not seen in training" in page
    assert "some of them training rows" in page and " went " in page
    assert tagged(*COMMAND, "--set=report.texts=false", "--name=shared", "--until=report").status == 0
    shared = (tmp_path / "runs" / "shared" / "report" / "index.html").read_text(encoding="utf-8")
    assert "Error analysis" in shared and "no texts of the data" in shared and " went " not in shared
    config = json.loads((run / "export" / "hf" / "config.json").read_text())
    assert config["architectures"] == ["GPT2ForTokenClassification"]
    assert config["id2label"]["0"] == "O" and "B-place" in config["label2id"]
    assert "nothing left to do" in tagged(*COMMAND).out

    found = tagged("predict", "runs/names", "bo berg went to rome 3 times.", "")
    assert found.status == 0 and "place\trome\t" in found.out and found.out.rstrip().endswith("no names")
    (tmp_path / "in.csv").write_text("id,text\n1,ann went to new york 5 times .\n2,\n")
    done = tagged("predict", "runs/names", "--csv", "in.csv", "--out", "out.csv")
    assert done.status == 0 and "2 rows" in done.out, done.err
    filled = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text(encoding="utf-8"))))
    names = json.loads(filled[0]["names"])
    assert [row["id"] for row in filled] == ["1", "2"] and json.loads(filled[1]["names"]) == []
    assert all(filled[0]["text"][own["start"] : own["end"]] == own["text"] for own in names) and names

    scored = tagged("evaluate", "runs/names", "my.conll")
    assert scored.status == 0 and "90 sentences" in scored.out and "place: F1" in scored.out, scored.err
    (tmp_path / "other.conll").write_text("ann B-animal\nslept O\n")
    refused = tagged("evaluate", "runs/names", "other.conll")
    assert refused.status == 2 and "never saw" in refused.err

    refused = tagged("export", "runs/names", "--format", "peft")
    assert refused.status == 2 and "no adapters" in refused.err
    card = run / "export" / "hf" / "bundle.json"
    card.write_text(card.read_text().replace('"task": "tag"', '"task": "os"'))
    refused = tagged("predict", "runs/names", "x")
    assert refused.status == 2 and "known: classify, tag" in refused.err


def test_adapters_are_trained_and_exported_merged(tagged, tmp_path):
    one = [f"--set={part}" for part in ("train.epochs=1", "evaluate.metric=f1_macro")]
    done = tagged(*COMMAND, *one, "--set=train.method=lora")
    assert done.status == 0 and "transformers gives the same tags" in done.out, done.out + done.err
    refused = tagged("export", "runs/names", "--format", "peft")
    assert refused.status == 2 and "a head of its own" in refused.err
    assert json.loads((tmp_path / "runs" / "names" / "eval.json").read_text())["headline"]["metric"] == "f1_macro"


def test_from_an_encoder_that_learnt_masked_words(tagged, tmp_path):
    (tmp_path / "text.txt").write_text(
        "<|endoftext|>\n".join(" ".join(word for word, _ in own) + "\n" for own in sentences())
    )
    text = ["--set=data=text.txt", "--set=pretrain.objective=masked", "--set=pretrain.val_fraction=0.2"]
    done = tagged("run", "pretrain", "--name=encoder", *text, *NEW, *SHORT, "--set=train.epochs=1")
    assert done.status == 0, done.out + done.err
    shape = ["--set=data=my.conll", "--set=weights=runs/encoder", *SHORT, "--set=train.epochs=2"]
    done = tagged("run", "tagger", "--name=names", *shape)
    assert done.status == 0 and "read back with equal logits" in done.out, done.out + done.err
    exported = tmp_path / "runs" / "names" / "export" / "hf"
    assert json.loads((exported / "config.json").read_text())["model_type"] == "finetune-encoder"
    assert "transformers" not in (exported / "README.md").read_text()
    assert tagged("predict", "runs/names", "bo berg went to rome 3 times.").status == 0
    assert tagged("evaluate", "runs/names", "my.conll").status == 0
    (exported / "config.json").write_text((exported / "config.json").read_text() + " ")
    refused = tagged("predict", "runs/names", "x")
    assert refused.status == 2 and "damaged or was edited" in refused.err


def test_the_head_alone_is_trained(tagged):
    done = tagged(*COMMAND, "--set=train.epochs=1", "--set=train.method=head", "--until=train")
    assert done.status == 0 and "in 2 tensors: head" in done.out, done.out + done.err


def test_files_for_validation_and_test_stay_whole(tagged, tmp_path):
    lines = (tmp_path / "my.conll").read_text().split("\n\n")
    for name, part in (("v", lines[:9]), ("t", lines[9:20]), ("my", lines[20:])):
        (tmp_path / f"{name}.conll").write_text("\n\n".join(part) + "\n")
    done = tagged(*COMMAND, "--set=validation=v.conll", "--set=test=t.conll", "--until=prepare")
    assert done.status == 0 and "train 70 / val 9 / test 11" in done.out, done.out + done.err


@pytest.mark.parametrize(
    "setting, said",
    [
        ("train.class_weights=balanced", "train.class_weights has no effect in tagger"),
        ("evaluate.positive=x", "evaluate.positive has no effect in tagger"),
        ("split.protocol=balanced", "needs a labelled table"),
        ("tag.words=x", "it is read by"),
    ],
)
def test_what_has_no_effect_is_refused(tagged, setting, said):
    refused = tagged(
        "run", "classify" if setting.startswith("tag.") else "tagger", f"--set={setting}", "--set=data=my.conll"
    )
    assert refused.status == 2 and said in refused.err, refused.err


def test_a_dry_run_says_what_it_would_take(tagged):
    done = tagged(*COMMAND, "--dry-run")
    assert done.status == 0 and "sentences:" in done.out and "runs" not in done.err, done.out + done.err
