"""Losses that rise, stand still, run away or fall: what is said of each."""

import json

import pytest

from finetune.training.health import warnings_about


def log(folder, losses):
    path = folder / "train.jsonl"
    lines = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    lines.insert(3, {"step": 3, "validation": {"accuracy": 0.5}})
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "losses, words",
    [
        ([0.7] * 30, "did not fall: 0.700 over the first 6 steps, 0.700 over the last 6"),
        ([0.5 + step / 100 for step in range(30)], "did not fall"),
        (
            [0.7] * 10 + [40.0] * 20,
            "diverged: 0.700 at the start, more than 3 times that at step 11, 40.000 at the end",
        ),
        ([0.7 - step / 100 for step in range(30)], ""),
        ([0.7] * 5 + [9.0] + [0.3] * 24, ""),
        ([0.7] * 19, ""),
        ([], ""),
    ],
    ids=["still", "rising", "away", "falling", "one spike", "short", "empty"],
)
def test_a_loss_that_did_not_fall_is_said(tmp_path, losses, words):
    found = warnings_about(log(tmp_path, losses))
    assert (words in found[0]) if words else not found
