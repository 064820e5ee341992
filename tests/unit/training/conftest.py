"""The toy classifier of tests/toy.py, and the log that training leaves."""

import json
import runpy
from pathlib import Path

import pytest

from finetune.training.loop import train


@pytest.fixture(scope="session")
def toy_job():
    """``toy_job(method, **settings)`` gives a job and its settings."""
    return runpy.run_path(str(Path(__file__).parents[2] / "toy.py"))["toy_job"]


@pytest.fixture
def run_training(tmp_path):
    """Train a job in an empty folder: returns (result, lines of steps, lines of validations, folder)."""

    def run(job, settings, name="run", checkpoint_seconds=1e9):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        result = train(job, settings, folder, {"data": "toy"}, checkpoint_seconds)
        lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "loss" in line]
        return result, steps, [line for line in lines if "validation" in line], folder

    return run
