"""A run with other settings does again what they touch, and takes the rest over from the run before it."""

import json
from pathlib import Path

import pytest

SAMPLE = [
    "run",
    "spam-classifier",
    "--set",
    "data=spam-sample",
    "--set",
    "weights=random-bytes",
    "--set",
    "train.max_steps=4",
    "--set",
    "train.threads=1",
    "--set",
    "evaluate.resamples=100",
    "--until",
    "evaluate",
]


def again(finetune, *settings: str) -> tuple[set[str], str]:
    """Run with more settings; returns the stages that were done, not taken over, and what was said."""
    done = finetune(*SAMPLE, *(part for setting in settings for part in ("--set", setting)))
    assert done.status == 0, done.err
    begun = {line.partition("] ")[2] for line in done.out.splitlines() if line.startswith("[")}
    taken = [line.partition(": reused from ")[0] for line in done.out.splitlines() if "reused from" in line]
    return begun - {name for names in taken for name in names.split(", ")}, done.out


@pytest.mark.parametrize(
    ("setting", "stages"),
    [
        ("evaluate.aim=max-f1", {"evaluate"}),
        ("train.lr=1e-3", {"train", "evaluate"}),
        ("split.seed=5", {"prepare", "train", "evaluate"}),
    ],
)
def test_only_what_a_setting_touches_is_done_again(finetune, setting, stages):
    assert again(finetune)[0] == {"download", "verify", "prepare", "train", "evaluate"}
    done, said = again(finetune, setting)
    assert done == stages and "reused from spam-classifier" in said
    first, second = (Path("runs", name) for name in ("spam-classifier", "spam-classifier-2"))
    records = [json.loads((run / "stages" / "01-download.json").read_text()) for run in (first, second)]
    assert records[0]["result"] == records[1]["result"]
    (second / "data" / "card.json").write_text("changed")
    assert json.loads((first / "data" / "card.json").read_text())["rows"] > 0  # a copy, not the same file


def test_a_damaged_stage_is_not_taken_over(finetune):
    again(finetune)
    with open("runs/spam-classifier/data/train.jsonl", "r+b") as file:
        file.seek(20)
        file.write(b"\x00")  # of the same size
    done, _ = again(finetune, "evaluate.aim=max-f1")
    assert "prepare" in done and "train" not in {"download", "verify"} & done
