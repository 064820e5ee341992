"""The comparison of methods by the real command: its table and report, and what a stopped one does again."""

import json
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

SETTINGS = [
    "run",
    "spam-methods",
    "--set",
    "weights=random-bytes",
    "--set",
    "methods.seeds=2",
    "--set",
    "train.epochs=1",
    "--set",
    "train.max_steps=3",
    "--set",
    "train.threads=1",
]


def read(*parts):
    return json.loads(Path(*parts).read_text(encoding="utf-8"))


@pytest.fixture
def fitted(monkeypatch):
    """The trainings that were started, which take place in this process and so begin at once."""
    from finetune.comparisons.methods import stage, trainings

    started = []

    def launch(command, run, kind):
        assert command[:2] == ["-m", "finetune.comparisons.methods.stage"]
        _, name, seed = command[2:]
        started.append(f"{name}-{seed}")
        return trainings.fit_here(run, name, int(seed), stage.READS)

    monkeypatch.setattr(trainings, "launch", launch)
    return started


def test_every_way_on_the_same_rows_and_no_training_done_twice(finetune, fitted, monkeypatch):
    from finetune.comparisons.methods import trainings

    work = trainings.fit_here

    def stopped_at_the_sixth(run, name, seed, reads):
        if len(fitted) == 6:
            raise KeyboardInterrupt
        return work(run, name, seed, reads)

    monkeypatch.setattr(trainings, "fit_here", stopped_at_the_sixth)
    assert finetune(*SETTINGS).status == 130
    assert not Path("runs/spam-methods/comparison.json").exists()
    kept = Path("runs/spam-methods/comparison/head-123/result.json")
    text = kept.read_text()
    kept.write_text(text.replace('"predicted"', '"guessed"'))
    refused = finetune(*SETTINGS)
    assert refused.status == 2 and "head-123/result.json: not in this version's format" in refused.err, refused.err
    assert "predicted" in refused.err and "Delete it" in refused.err
    kept.write_text(text)
    done = finetune(*SETTINGS)
    assert done.status == 0, done.err
    assert len(fitted) == 18 and fitted[5] == fitted[6] and len(set(fitted)) == 17
    assert [name for name in fitted if name.startswith("features")] == ["features-123"]  # has no seed

    run = Path("runs/spam-methods")
    found = read(run, "comparison.json")
    assert found["reference"] == "full"  # these weights are random: nothing to keep
    entries = {entry["name"]: entry for entry in found["candidates"]}
    truth = [json.loads(line)["label"] for line in (run / "data" / "test.jsonl").read_text().splitlines()]
    for name in ("head", "lora", "padded", "full-random"):
        guessed = [
            [found["labels"][i] for i in read(run, "comparison", f"{name}-{seed}", "result.json")["predicted"]]
            for seed in (123, 124)
        ]
        assert np.isclose(entries[name]["accuracy"]["value"], np.mean([accuracy_score(truth, row) for row in guessed]))
        assert np.isclose(
            entries[name]["f1"]["value"],
            np.mean([f1_score(truth, row, pos_label="spam", zero_division=0) for row in guessed]),
        )
    moving = {name: entry["trainable"] for name, entry in entries.items() if "trainable" in entry}
    assert (
        moving["features"]
        == moving["head"]
        < moving["lora"]
        < moving["last-block"]
        < moving["last-two-blocks"]
        < moving["full"]
    )
    assert moving["last-block"] == moving["first-token"] == moving["padded"]
    assert not list(run.glob("comparison/*/checkpoints"))

    for line in ("test rows: ", "last block, padded", "TF-IDF", "reference"):
        assert line in done.out
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert all(entry["label"] in page for entry in found["candidates"])
    (run / "report" / "report.md").unlink()
    assert finetune("report", run).status == 0 and "LoRA" in (run / "report" / "report.md").read_text(encoding="utf-8")
    assert "nothing left to do" in finetune(*SETTINGS).out


@pytest.mark.parametrize(
    "settings, said",
    [
        (['methods.candidates=["head","tail"]'], "last-two-blocks"),
        (['methods.candidates=["head","head"]'], "twice"),
        (["train.method=lora"], "train.method"),
        (["task=pretrain"], "task"),
        (["evaluate.aim=max-f1"], "evaluate.aim"),
    ],
)
def test_settings_unsupported_by_a_comparison_are_refused_before_training(finetune, settings, said):
    done = finetune(*SETTINGS, *(word for pair in settings for word in ("--set", pair)))
    assert done.status == 2 and said in done.err, done.err
    assert not list(Path("runs").glob("*/comparison"))


def test_a_comparison_of_many_labels_with_copies_on_two_sides_and_adapters_of_ones_own(finetune, fitted):
    """More than two labels, a test file whose texts partly stand in train, a rank that one candidate alone reads."""
    labels = ("red", "green", "blue")
    lines = [
        f"{label} thing {'x' * (i % 7)} {word},{label}" for i, word in enumerate("abcdefghijklmnop") for label in labels
    ]
    Path("train.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    fresh = ["quite red,red", "so blue,blue", "greenish,green"]
    Path("test.csv").write_text("text,label\n" + "\n".join(lines[:6] + fresh) + "\n")
    done = finetune(
        *SETTINGS,
        "--set",
        "data=train.csv",
        "--set",
        "test=test.csv",
        "--set",
        "train.lora_rank=2",
        "--set",
        'methods.candidates=["head","lora","full"]',
        "--set",
        "methods.seeds=1",
    )
    assert done.status == 0, done.err
    found = read("runs", "spam-methods", "comparison.json")
    assert found["reference"] == "full" and found["positive"] is None
    assert [entry["clean"]["n"] for entry in found["candidates"]] == [3] * 4
    page = Path("runs/spam-methods/report/report.md").read_text(encoding="utf-8")
    assert "3 rows in no other split" in page and "Macro F1" in page


def test_a_dry_run_tries_each_way_and_leaves_nothing(finetune):
    done = finetune(*SETTINGS, "--dry-run", "--set", 'methods.candidates=["head","full","padded"]')
    assert done.status == 0, done.err
    assert done.out.count("estimate") >= 2 and "head only" in done.out and "all weights" in done.out
    assert not Path("runs").exists()


ONE = [*SETTINGS, "--set", 'methods.candidates=["full"]', "--set", "methods.seeds=1"]


def test_an_error_in_a_training_process_is_reported(finetune):
    done = finetune(*ONE, "--set", "train.lr=1e30")
    assert done.status == 2 and "the loss is not finite" in done.err, done.err


def test_a_stop_reaches_a_training_s_own_process_and_its_lines_the_log(finetune, tools):
    begun = tools.start(
        [*ONE, "--set", "train.max_steps=100000", "--set", "train.epochs=400", "--set", "train.patience=1000"],
        Path.cwd(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    for line in begun.stdout:  # this one comes from the other process
        if "epoch 1" in line:
            break
    begun.send_signal(signal.SIGINT)
    rest, _ = begun.communicate(timeout=120)
    assert begun.returncode == 130, rest
    run = Path("runs/spam-methods")
    assert "epoch 1" in (run / "log.txt").read_text(encoding="utf-8")
    assert list(run.glob("comparison/full-123/checkpoints/step-*")) and not list(run.glob("comparison/*/result.json"))
