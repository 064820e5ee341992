"""Pretraining by the real command: from scratch, continued, measured, generated from and classified from."""

import json
import os
import shutil
import signal

import pytest

from finetune.tasks.pretrain import sharding

COMMAND = [
    "run",
    "pretrain",
    "--set",
    "data=text.txt",
    "--set",
    "weights=scratch",
    "--set",
    "shape.layers=2",
    "--set",
    "shape.width=32",
    "--set",
    "shape.context=32",
    "--set",
    "train.lr=0.003",
    "--set",
    "train.epochs=2",
    "--set",
    "pretrain.val_fraction=0.2",
    "--set",
    "train.threads=1",
]


def write_text(directory, documents=40):
    texts = [
        f"the ferry {name} left the pier at {hour}\nand came back in the rain\n"
        for name in ("Anna", "Boat", "Gull", "Tern")
        for hour in range(documents // 4)
    ]
    (directory / "text.txt").write_text("<|endoftext|>\n".join(texts))


@pytest.fixture
def pretrained(finetune, tmp_path):
    write_text(tmp_path)
    done = finetune(*COMMAND)
    assert done.status == 0, done.err
    return tmp_path / "runs" / "pretrain"


def test_text_is_learned_measured_and_exported(pretrained, finetune, tmp_path):
    from transformers import GPT2LMHeadModel

    evaluation = json.loads((pretrained / "eval.json").read_text())
    before, after = (evaluation[state]["val"]["bits_per_byte"]["value"] for state in ("before", "after"))
    assert after < 0.8 * before and evaluation["headline"]["value"] == after
    assert before == pytest.approx(8.0, abs=0.5)  # random weights over bytes know nothing
    html = (pretrained / "report" / "index.html").read_text()
    assert "bits per byte" in html and html.count("<script") == 1
    _, loading = GPT2LMHeadModel.from_pretrained(pretrained / "export" / "hf", output_loading_info=True)
    assert not any(loading.values())
    assert {path.name for path in (pretrained / "data").iterdir()} == {"train.bin", "val.bin", "card.json"}
    assert finetune("export", "runs/pretrain", "--format", "html").status == 0
    cost = json.loads((pretrained / "export" / "html" / "page.json").read_text())["cost"]
    assert cost["before"] == pytest.approx(evaluation["metrics"]["log_loss"]["value"], rel=1e-4)


def test_rows_of_an_evaluation_set_are_not_trained_on(finetune, tmp_path):
    write_text(tmp_path)
    (tmp_path / "rows.csv").write_text("text,label\nThe ferry Anna left the pier at 3,boat\n")
    missing = finetune(*COMMAND, "--set", "pretrain.exclude=['none.csv']")
    assert missing.status == 2 and "no such file or folder: none.csv" in missing.err
    done = finetune(*COMMAND, "--set", "pretrain.exclude=['rows.csv']", "--until", "prepare", "--name", "clean")
    assert done.status == 0 and "1 document left out for containing a row of the evaluation sets (1 row)" in done.out, (
        done.err
    )
    assert json.loads((tmp_path / "runs" / "clean" / "data" / "card.json").read_text())["excluded"] == {
        "rows": 1,
        "documents": 1,
    }
    assert json.loads((tmp_path / "runs" / "clean" / "recipe.json").read_text())["pretrain"]["exclude"] == [
        str(tmp_path / "rows.csv")
    ]


def test_generating_and_classifying_go_on_from_it(pretrained, finetune, tmp_path):
    assert ' generate runs/pretrain "The")' in (pretrained / "log.txt").read_text()
    said = finetune("generate", pretrained, "the ferry", "--max-new-tokens", "20", "--temperature", "0")
    assert said.status == 0 and said.out.startswith("the ferry")
    rows = "".join(f"the ferry Anna {i},boat\nsee you at lunch {i},food\n" for i in range(40))
    (tmp_path / "my.csv").write_text("text,label\n" + rows.replace("0", "x").replace("1", "y z"))
    done = finetune("classify", "my.csv", "--weights", pretrained, "--set", "train.epochs=1")
    assert done.status == 0, done.err
    evaluation = json.loads((tmp_path / "runs" / "classify-my" / "eval.json").read_text())
    assert evaluation["weights"]["name"] == "pretrain" and not evaluation["weights"]["fallback"]


@pytest.mark.parametrize(
    "setting, words",
    [
        ("train.metric=f1_macro", "is not a validation metric of the task pretrain"),
        ("train.class_weights=balanced", "read by the task classify (in train)"),
        ("instruct.style=chat", "read by the task instruct"),
    ],
)
def test_a_setting_of_other_tasks_is_refused_before_anything_is_done(finetune, tmp_path, setting, words):
    write_text(tmp_path)
    wrong = finetune(*COMMAND, "--set", setting)
    assert wrong.status == 2 and words in wrong.err and not (tmp_path / "runs" / "pretrain" / "data").exists()


def test_continued_pretraining_starts_from_the_checkpoint(pretrained, finetune, tmp_path):
    first = json.loads((pretrained / "eval.json").read_text())
    done = finetune(
        "run",
        "pretrain",
        "--name",
        "more",
        "--set",
        "data=text.txt",
        "--set",
        f"weights={pretrained}",
        "--set",
        "pretrain.val_fraction=0.2",
        "--set",
        "train.threads=1",
    )
    assert done.status == 0, done.err
    second = json.loads((tmp_path / "runs" / "more" / "eval.json").read_text())
    assert second["before"]["val"] == first["after"]["val"]


def test_a_stopped_run_resumes_to_the_same_weights(pretrained, finetune, tmp_path, monkeypatch):
    from finetune.training.step import EagerSteps

    original, steps = EagerSteps.take, []

    def stop_after_seven(*arguments):
        steps.append(1)
        if len(steps) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    whole = pretrained.rename(tmp_path / "whole")  # out of reach, so that nothing is taken over from it
    monkeypatch.setattr(EagerSteps, "take", stop_after_seven)
    stopped = finetune(*COMMAND, "--name", "stopped")
    assert stopped.status == 130 and "Resume with" in stopped.err
    again = finetune(*COMMAND, "--name", "stopped")
    assert again.status == 0 and len(steps) > 7
    weights = [
        (run / "export" / "hf" / "model.safetensors").read_bytes() for run in (whole, tmp_path / "runs" / "stopped")
    ]
    assert weights[0] == weights[1]


STREAM = [
    "--set",
    "pretrain.stream=true",
    "--set",
    "pretrain.shard_tokens=512",
    "--set",
    "pretrain.disk_megabytes=0.0025",
]


def size_of(file):
    """A file's size; 0 if a thread that makes a shard has renamed or deleted it meanwhile."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def interrupted_after(count, call):
    """The function, which raises KeyboardInterrupt after so many calls."""
    calls = []

    def counted(*given):
        calls.append(given)
        if len(calls) > count:
            raise KeyboardInterrupt
        return call(*given)

    return counted


def test_a_stream_resumes_to_the_same_weights_on_a_bounded_disk(finetune, tmp_path, monkeypatch):
    from finetune.training.step import EagerSteps

    write_text(tmp_path)
    original, seen, stop = EagerSteps.take, [], [-1]

    def watched(self, rows, *arguments):
        found = original(self, rows, *arguments)
        [shards] = (tmp_path / "runs").glob("*/shards")
        assert sum(map(size_of, shards.iterdir())) <= 2500
        seen.append(rows)
        if len(seen) == stop[0]:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    monkeypatch.setattr(EagerSteps, "take", watched)
    whole = finetune(*COMMAND, *STREAM)
    assert whole.status == 0, whole.err
    weights, batches = (tmp_path / "runs" / "pretrain" / "export" / "hf" / "model.safetensors").read_bytes(), seen[:]
    (tmp_path / "runs" / "pretrain").rename(tmp_path / "whole")
    seen.clear()
    with monkeypatch.context() as patch:  # Ctrl-C in prepare
        patch.setattr(sharding, "train_ids", interrupted_after(30, sharding.train_ids))
        assert finetune(*COMMAND, *STREAM, "--name", "stopped").status == 130
    stop[0] = len(batches) * 2 // 3  # in the middle of the second epoch's shards
    stopped = finetune(*COMMAND, *STREAM, "--name", "stopped")
    assert stopped.status == 130 and "resuming after shard " in stopped.out, stopped.err
    for name in ("stream.json", "val.bin", "card.json"):
        assert (tmp_path / "runs/stopped/data" / name).read_bytes() == (tmp_path / "whole/data" / name).read_bytes()
    assert not (tmp_path / "runs" / "stopped" / "data" / sharding.PROGRESS).exists()
    shutil.rmtree(tmp_path / "runs" / "stopped" / "shards")  # they are made again
    again = finetune(*COMMAND, *STREAM, "--name", "stopped")
    assert again.status == 0 and "resuming from" in again.out, again.err
    assert seen == batches
    assert (tmp_path / "runs" / "stopped" / "export" / "hf" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    "settings, words",
    [
        (["pretrain.shard_tokens=512"], "pretrain.shard_tokens is used only with pretrain.stream"),
        (["pretrain.stream=true", "pretrain.disk_megabytes=0.5"], "too small for one shard"),
        (["pretrain.stream=true", "data=rows.csv"], "not a file that can be read as a stream"),
        (["pretrain.stream=true", "data=rows.jsonl"], "no column of strings named text; got body"),
        (["pretrain.stream=true", "data=hf:nobody/nothing"], "the hub does not answer"),
        (["data=https://example.org/a.txt"], "pretrain.stream=true"),
    ],
)
def test_what_cannot_be_streamed_is_refused_in_words(finetune, tmp_path, settings, words):
    write_text(tmp_path)
    (tmp_path / "rows.csv").write_text("text\nx\n")
    (tmp_path / "rows.jsonl").write_text('{"body": "x"}\n')
    refused = finetune(*COMMAND, *(word for setting in settings for word in ("--set", setting)))
    assert refused.status == 2 and words in refused.err, refused.err
