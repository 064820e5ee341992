"""Weights of a training at a constant rate, taken out of its checkpoint, go on elsewhere as if nothing had been."""

import json
import runpy
from statistics import mean

from tests.end_to_end.conftest import ROOT
from tests.end_to_end.test_pretrain import write_text

TRAIN = [
    "run",
    "pretrain",
    "--set",
    "data=text.txt",
    "--set",
    "pretrain.val_fraction=0.2",
    "--set",
    "train.lr=0.003",
    "--set",
    "train.optimizer=muon",
    "--set",
    "train.schedule=constant",
    "--set",
    "train.batch_size=4",
    "--set",
    "train.epochs=50",
    "--set",
    "train.evaluations_per_epoch=1",
    "--set",
    "train.patience=100",
    "--set",
    "train.warmup_fraction=0.1",
    "--set",
    "train.threads=1",
    "--until",
    "train",
]
NEW = ["--set", "weights=scratch", "--set", "shape.layers=2", "--set", "shape.width=32", "--set", "shape.context=32"]


def losses(run):
    rows = map(json.loads, (run / "train.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def test_the_curve_continues_at_the_constant_rate_and_in_a_decay(finetune, tmp_path):
    take_out = runpy.run_path(str(ROOT / "weights" / "take_out.py"))["take_out"]
    write_text(tmp_path, 80)
    first = finetune(*TRAIN, *NEW, "--name", "first", "--set", "train.max_steps=120")
    assert first.status == 0, first.err
    assert take_out(tmp_path / "runs" / "first", tmp_path / "carried") == 120
    assert {path.name for path in (tmp_path / "carried").iterdir()} == {
        "model.safetensors",
        "config.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
    }
    for name, settings in (("on", []), ("end", ["--set", "train.decay_fraction=1"])):
        done = finetune(
            *TRAIN,
            "--name",
            name,
            "--set",
            "weights=carried",
            "--set",
            "train.max_steps=60",
            "--set",
            "train.seed=7",
            *settings,
        )
        assert done.status == 0, done.err
    before, on, end = (losses(tmp_path / "runs" / name) for name in ("first", "on", "end"))
    assert mean(before[-20:]) < 0.6 * before[0]  # there was something to lose
    for after in (on, end):
        assert max(after) < 1.25 * max(before[-20:])  # no jump, in the new warmup or after
        assert mean(after[-20:]) < 1.02 * mean(before[-20:])
