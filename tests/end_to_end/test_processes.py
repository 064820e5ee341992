"""Two processes train as one does, through the real command; and they stop, and go on, when they are told to."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from finetune.cli.processes import process_count
from finetune.errors import RecipeError
from finetune.files import read_json
from finetune.recipe import Recipe
from finetune.records import TrainResult
from finetune.run import Run
from finetune.stages.train import train_here

ROOT = Path(__file__).resolve().parents[2]
STEPS = 28  # 4 epochs of 55 rows, 9 in a step: the last batch of an epoch is one row for two processes
pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends signals as a terminal does")


def write_rows(path: Path) -> None:
    """79 texts of two labels that share some words."""
    source = random.Random(0)
    words = ["win", "cash", "prize", "call", "free", "now", "claim", "see", "home", "lunch", "ok", "love"]
    lines = ["text,label"]
    for number in range(79):
        first = 0 if number % 2 else 4
        text = " ".join(source.choices(words[first : first + 8], k=source.randint(1, 9)))
        lines.append(f"{text} {chr(97 + number % 26)}{chr(97 + number // 26)},{'spam' if number % 2 else 'ham'}")
    path.write_text("\n".join(lines) + "\n")


def start(folder: Path, *launcher: str, options: tuple[str, ...] = ("--processes", "2")) -> subprocess.Popen:
    """The command, in a session of its own: what a signal to its process group reaches is what Ctrl-C reaches.

    launcher: the arguments of Python that start several processes of a module, where the command does not itself.
    """
    settings = {"epochs": 4, "batch_size": 9, "lr": 1e-4, "patience": 9, "threads": 1, "precision": "fp32"}
    command = [sys.executable, *launcher, "-m", "finetune", "classify", "small.csv", "--weights", "random-bytes"]
    command += ["--name", "two", "--until", "train", *options]
    for key, value in settings.items():
        command += ["--set", f"train.{key}={value}"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def steps_in(log: Path) -> list[dict]:
    if not log.exists():
        return []
    return [line for line in map(json.loads, log.read_text().splitlines()) if "loss" in line]


def test_two_processes_stop_go_on_and_equal_one(tmp_path):
    write_rows(tmp_path / "small.csv")
    run = tmp_path / "runs" / "two"
    command = start(tmp_path)
    while command.poll() is None and len(steps_in(run / "train.jsonl")) < 3:
        time.sleep(0.05)
    os.killpg(command.pid, signal.SIGINT)
    out, errors = command.communicate(timeout=60)
    assert command.returncode == 130, out + errors
    assert "of 28; the state is saved. Resume with: " in errors and "Traceback" not in errors
    done = len(steps_in(run / "train.jsonl"))
    assert 3 <= done < STEPS and (run / "checkpoints" / f"step-{done:08d}" / "MANIFEST.json").exists()
    assert not list(run.glob("stages/*-train.json"))

    command = start(tmp_path)
    out, errors = command.communicate(timeout=120)
    assert command.returncode == 0, out + errors
    assert out.count(f"resuming from step-{done:08d}") == 1 and out.count("epoch 4: validation") == 1
    assert "epoch 4: validation" in (run / "log.txt").read_text()
    result = Run.at(run).result("train", TrainResult)
    assert (result.processes, result.steps, result.device) == (2, STEPS, "cpu")

    alone = tmp_path / "runs" / "one"
    shutil.copytree(run, alone)
    shutil.rmtree(alone / "checkpoints")
    (alone / "train.jsonl").unlink()
    expected = train_here(Recipe.model_validate(read_json(alone / "recipe.json")), Run.at(alone))
    assert expected.processes == 1 and expected.tokens == result.tokens
    two, one = steps_in(run / "train.jsonl"), steps_in(alone / "train.jsonl")
    assert [(line["step"], line["rows"]) for line in two] == [(line["step"], line["rows"]) for line in one]
    assert len(two) == STEPS and min(line["rows"] for line in two) == 1
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    assert [line["grad_norm"] for line in two] == pytest.approx([line["grad_norm"] for line in one], rel=1e-4)
    weights, reference = (
        load_file(folder / "checkpoints" / f"step-{STEPS:08d}" / "weights.safetensors") for folder in (run, alone)
    )
    for name, value in reference.items():
        if not name.endswith("qkv.bias"):  # the keys' part of it has no gradient but rounding
            torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=2e-5, msg=name)


ACCELERATE = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no")


def test_a_process_that_dies_stops_the_others_and_one_goes_on(tmp_path):
    """Started by accelerate launch; --multi_gpu is its word for several processes of one machine."""
    write_rows(tmp_path / "small.csv")
    run = tmp_path / "runs" / "two"
    command = start(tmp_path, *ACCELERATE, "--num_machines", "1", "--dynamo_backend", "no", options=())
    while command.poll() is None and len(steps_in(run / "train.jsonl")) < 8:  # an epoch is 7
        time.sleep(0.05)
    ranks = {
        own.environ().get("RANK"): own
        for own in psutil.Process(command.pid).children(recursive=True)
        if "finetune" in own.cmdline()
    }
    assert sorted(ranks) == ["0", "1"]
    ranks["1"].kill()
    out, errors = command.communicate(timeout=60)
    assert command.returncode != 0 and "another of the processes that train together ended" in errors, errors
    assert out.count("run runs/two: new") == 1 and "the same command resumes" in errors.lower()

    command = start(tmp_path, options=())
    out, errors = command.communicate(timeout=120)
    assert command.returncode == 0, errors
    assert "resuming from step-" in out and "processes 1 instead of 2" in errors
    result = Run.at(run).result("train", TrainResult)
    assert (result.processes, result.steps) == (1, STEPS)


def test_an_error_is_said_once_and_ends_all(tmp_path):
    (tmp_path / "small.csv").write_text("text,label\n" + "".join(f"words {n},same\n" for n in range(30)))
    command = start(tmp_path)
    out, errors = command.communicate(timeout=60)
    assert command.returncode == 2 and errors.count("error: ") == 1, errors
    assert "Traceback" not in errors and "ChildFailedError" not in errors


def test_what_was_started_is_what_trains(monkeypatch, capsys):
    assert process_count(1) == 1 and process_count(3) == 3
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert process_count(1) == 1
    assert "accelerate launch was asked for several processes and started one" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert process_count(1) == process_count(2) == 2 and not capsys.readouterr().err
    with pytest.raises(RecipeError, match="got 3"):
        process_count(3)
