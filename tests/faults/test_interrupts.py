"""SIGINT and SIGTERM in every stage: what is finished stays, and the command that is named continues to the same bits."""

import itertools
import shlex
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from finetune.files import sha256_file
from finetune.records import Trained
from finetune.run import Run

STAGES = ["download", "verify", "prepare", "train", "evaluate", "audit", "report", "export"]
RESULTS = ("export/hf/model.safetensors", "predictions.csv", "data/test.jsonl")


def results(run: Path) -> dict[str, str]:
    """The hashes of what a run is for."""
    return {name: sha256_file(run / name) for name in RESULTS}


def command_named(text: str) -> list[str]:
    """The arguments of the command with which an interrupt says to resume."""
    words = shlex.split(text.strip().splitlines()[-1].partition("Resume with: ")[2])
    return words[words.index("run") :]


@pytest.mark.parametrize(
    "stage, number", list(zip(STAGES, itertools.cycle((signal.SIGINT, signal.SIGTERM)), strict=False)), ids=STAGES
)
def test_an_interrupted_stage_is_done_again_by_the_command_that_is_named(
    toy, finished, finetune, monkeypatch, stage, number
):
    finish = Run.finish

    def interrupted(self, at, name, *more, **named):
        if name == stage:
            signal.raise_signal(number)
        return finish(self, at, name, *more, **named)

    monkeypatch.setattr(Run, "finish", interrupted)
    stopped = finetune("run", toy / "recipe.json", "--name", "toy", "--from", stage)
    assert stopped.status == 130 and "Traceback" not in stopped.err, stopped
    assert not Run.at(toy).finished(stage)
    monkeypatch.setattr(Run, "finish", finish)
    done = finetune(*command_named(stopped.err))
    assert done.status == 0 and results(toy) == results(finished)


def test_an_interrupted_training_finishes_its_step_and_saves(toy, finished, finetune, monkeypatch):
    from finetune.training.step import EagerSteps

    step = EagerSteps.take
    monkeypatch.setattr(EagerSteps, "take", lambda *a: (a[2] == 2 and signal.raise_signal(signal.SIGTERM)) or step(*a))
    stopped = finetune("run", toy / "recipe.json", "--name", "toy", "--from", "train")
    assert stopped.status == 130 and "stopped at step 3 of " in stopped.err
    assert (toy / "checkpoints" / "step-00000003" / "MANIFEST.json").exists()
    monkeypatch.setattr(EagerSteps, "take", step)
    done = finetune(*command_named(stopped.err))
    assert "resuming from step-00000003" in done.out and results(toy) == results(finished)


@pytest.mark.parametrize("name", ["train.jsonl", "val.jsonl", "test.jsonl", "train.ids"])
def test_data_that_change_while_a_training_is_stopped_are_prepared_again(toy, finished, finetune, monkeypatch, name):
    from finetune.training.step import EagerSteps

    step = EagerSteps.take
    monkeypatch.setattr(EagerSteps, "take", lambda *a: (a[2] == 2 and signal.raise_signal(signal.SIGINT)) or step(*a))
    stopped = finetune("run", toy / "recipe.json", "--name", "toy", "--from", "train")
    monkeypatch.setattr(EagerSteps, "take", step)
    content = bytearray((toy / "data" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (toy / "data" / name).write_bytes(content)
    done = finetune(*command_named(stopped.err))
    assert "[3] prepare" in done.out and "resuming from step-00000003" in done.out, done
    assert results(toy) == results(finished)


def test_a_second_signal_in_training_stops_within_the_step_without_harm(toy, finished, finetune, monkeypatch):
    from finetune.training.step import EagerSteps

    step, signals = EagerSteps.take, []

    def twice(*arguments):
        if arguments[2] == 8:
            for number in (signal.SIGINT, signal.SIGTERM):
                signals.append(number)
                signal.raise_signal(number)
            signals.append("the step went on")
        return step(*arguments)

    monkeypatch.setattr(EagerSteps, "take", twice)
    stopped = finetune("run", toy / "recipe.json", "--name", "toy", "--from", "train")
    assert stopped.status == 130 and signals == [signal.SIGINT, signal.SIGTERM]
    monkeypatch.setattr(EagerSteps, "take", step)
    done = finetune(*command_named(stopped.err))
    assert done.status == 0 and results(toy) == results(finished)


STUBBORN = """
import sys, time
from pathlib import Path
from finetune.cli import main
from finetune.stages import {stage}
inner = {stage}.run
def slow(*arguments, **named):
    try:
        Path("begun").touch()
        time.sleep(600)
    finally:
        Path("cleaning").touch()
        time.sleep(600)
{stage}.run = slow
main()
"""


def wait_for(path: Path, process) -> None:
    """Until the file is there; a process that ends before is an error."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize("stage", ["prepare", pytest.param("report", marks=pytest.mark.slow)])
def test_a_second_signal_ends_a_stage_that_does_not_end(toy, finished, finetune, start, tmp_path, stage):
    arguments = ("run", toy / "recipe.json", "--name", "toy", "--from", stage)
    process = start(*arguments, program=("-c", STUBBORN.format(stage=stage)))
    wait_for(tmp_path / "begun", process)
    process.send_signal(signal.SIGINT)
    wait_for(tmp_path / "cleaning", process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in out, out
    done = finetune("run", toy / "recipe.json", "--name", "toy")
    assert done.status == 0 and results(toy) == results(finished)


WRITES = "import sys, time\nwhile True:\n    open(sys.argv[1], 'a').write('.')\n    time.sleep(0.01)"


def test_a_second_signal_ends_the_processes_that_were_started(tmp_path):
    from finetune.training.launch import launch

    ticks = tmp_path / "ticks"

    def twice() -> None:
        while not ticks.exists():
            time.sleep(0.02)
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.3)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=twice, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            launch(["-c", WRITES, str(ticks)], Run(tmp_path), Trained)
    finally:
        signal.signal(signal.SIGINT, before)
    size = ticks.stat().st_size
    assert not [child for child in psutil.Process().children() if str(ticks) in child.cmdline()]
    time.sleep(0.1)
    assert ticks.stat().st_size == size
