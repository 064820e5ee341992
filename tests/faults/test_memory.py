"""Passes that were found to fit are kept by a run, so that it goes on to the same bits on a machine with other memory."""

import json
from pathlib import Path

import pytest

SETTINGS = (
    *("--set", "weights=scratch", "--set", "shape.layers=1", "--set", "shape.width=16", "--set", "shape.heads=2"),
    *("--set", "shape.context=64", "--set", "train.threads=1", "--set", "train.max_steps=3", "--until", "train"),
)
FOUND = Path("runs", "auto", "checkpoints", "micro_batch_tokens.json")


def test_a_run_goes_on_with_the_passes_that_it_found(finetune, table):
    command = ("classify", table, "--name", "auto", *SETTINGS, "--set", "train.micro_batch_tokens=auto")
    done = finetune(*command)
    found = json.loads(FOUND.read_text())["micro_batch_tokens"]
    assert done.status == 0 and f"micro_batch_tokens {found:,}: fits in memory" in done.out
    Path("runs/auto/stages/04-train.json").unlink()
    FOUND.write_text('{"micro_batch_tokens": 64}')  # of a machine with less memory
    again = finetune(*command)
    assert again.status == 0 and "micro_batch_tokens 64: fits in memory" in again.out
    anew = finetune(*command, "--from", "train")
    assert anew.status == 0 and f"micro_batch_tokens {found:,}: fits in memory" in anew.out


@pytest.mark.parametrize("content", ["[]", "{", '{"micro_batch_tokens": "x"}'])
def test_passes_that_are_damaged_are_named(finetune, table, content):
    command = ("classify", table, "--name", "auto", *SETTINGS, "--set", "train.micro_batch_tokens=auto")
    assert finetune(*command).status == 0
    Path("runs/auto/stages/04-train.json").unlink()
    FOUND.write_text(content)
    done = finetune(*command)
    assert done.status == 2 and "micro_batch_tokens.json" in done.err
