"""Two processes train as one does, through the real command; and they stop, and go on, when they are told to.

One run is stopped by Ctrl-C, goes on under torchrun and is stopped there, goes on under accelerate launch, where a process
is killed, and is finished by --processes 2.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file

from finetune.cli.processes import STATUS, WORK, process_count, run_process_count
from finetune.cli.worker import COMMANDS
from finetune.commands import bundle
from finetune.errors import RecipeError
from finetune.execution import execute
from finetune.files import write_json
from finetune.pipeline import load_pipeline, make_recipe
from finetune.records import TrainResult
from finetune.run import Run
from finetune.stages.train import train_here
from finetune.tasks.classify import audit
from finetune.tasks.classify.predict import predict_table
from finetune.training import ranks

ROOT = Path(__file__).resolve().parents[2]
STEPS = 70  # 10 epochs of 55 rows, 9 in a step: the last batch of an epoch is one row for two processes
SETTINGS = {"epochs": 10, "batch_size": 9, "lr": 1e-4, "patience": 9, "threads": 1, "precision": "fp32"}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# --multi_gpu is its word for several processes of one machine
ACCELERATE = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no")
ACCELERATE += ("--num_machines", "1", "--dynamo_backend", "no")
SHAPE = {"layers": 2, "width": 64, "heads": 2, "context": 128}
ends_with_signals = pytest.mark.skipif(os.name == "nt", reason="sends signals as a terminal does")


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


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """Python, in a session of its own: what a signal to its process group reaches is what Ctrl-C reaches."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def train(folder: Path, *launcher: str, options: tuple[str, ...] = (), until: str = "train") -> subprocess.Popen:
    """The training. launcher: the arguments of Python that start several processes, where the command does not itself."""
    command = ["-m", "finetune", "classify", "small.csv", "--weights", "scratch", "--name", "two"]
    settings = [f"--set=train.{key}={value}" for key, value in SETTINGS.items()]
    settings += [f"--set=shape.{key}={value}" for key, value in SHAPE.items()]
    return start(folder, *launcher, *command, *settings, "--until", until, *options)


def steps_in(log: Path) -> list[dict]:
    if not log.exists():
        return []
    return [line for line in map(json.loads, log.read_text().splitlines()) if "loss" in line]


def ended(command: subprocess.Popen, run: Path, began: int) -> SimpleNamespace:
    """How a command ended, and after how many steps of the run, which began with so many."""
    out, errors = command.communicate(timeout=120)
    steps = len(steps_in(run / "train.jsonl"))
    return SimpleNamespace(status=command.returncode, out=out, errors=errors, run=run, began=began, steps=steps)


def stop(folder: Path, began: int, *launcher: str, options: tuple[str, ...] = ()) -> SimpleNamespace:
    """Ctrl-C in the training's third step from now on."""
    run, command = folder / "runs" / "two", train(folder, *launcher, options=options)
    while command.poll() is None and len(steps_in(run / "train.jsonl")) < began + 3:
        time.sleep(0.02)
    os.killpg(command.pid, signal.SIGINT)
    return ended(command, run, began)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_rows(folder / "small.csv")
    return stop(folder, 0, options=("--processes", "2"))


@pytest.fixture(scope="module")
def stopped_again(stopped):
    return stop(stopped.run.parents[1], stopped.steps, *TORCHRUN)


@pytest.fixture(scope="module")
def killed(stopped_again):
    run, began = stopped_again.run, stopped_again.steps
    command = train(run.parents[1], *ACCELERATE)
    while command.poll() is None and len(steps_in(run / "train.jsonl")) < began + 3:
        time.sleep(0.02)
    ranks = {
        own.environ().get("RANK"): own
        for own in psutil.Process(command.pid).children(recursive=True)
        if "finetune" in own.cmdline()
    }
    assert sorted(ranks) == ["0", "1"]
    ranks["1"].kill()
    found = ended(command, run, began)
    shutil.copytree(run, run.parents[1] / "killed")
    return found


@pytest.fixture(scope="module")
def finished(killed):
    command = train(killed.run.parents[1], options=("--processes", "2"), until="evaluate")
    return ended(command, killed.run, 0)


def saved(run: Path) -> list[int]:
    """The steps after which whole checkpoints were saved."""
    return sorted(int(path.parent.name[5:]) for path in run.glob("checkpoints/step-*/MANIFEST.json"))


@ends_with_signals
@pytest.mark.parametrize("way", ["stopped", "stopped_again"])
def test_ctrl_c_ends_the_step_and_saves_once(way, request):
    """In a step of both processes, started by --processes or by torchrun, which ends with a status and words of its own."""
    found = request.getfixturevalue(way)
    assert found.began + 3 <= found.steps < STEPS
    assert found.errors.count(f"stopped at step {found.steps} of {STEPS}; the state is saved. Resume with: ") == 1
    if way == "stopped":
        assert found.status == 130 and "Traceback" not in found.errors and "interrupted" not in found.errors
        assert saved(found.run)[-1] >= found.steps and not list(found.run.glob("stages/*-train.json"))
    else:
        assert found.out.count(f"resuming from step-{found.began:08d}") == 1


@ends_with_signals
def test_a_process_that_dies_stops_the_others_with_its_reason(killed):
    assert killed.status != 0 and "another training process ended" in killed.errors
    assert killed.out.count("run runs/two: resuming") == 1 and "same command" in killed.errors
    assert killed.out.count("resuming from step-") == 1


@ends_with_signals
def test_one_process_goes_on_where_two_were_stopped(killed, finished, capsys):
    alone = Run.at(killed.run.parents[1] / "killed")
    result = train_here(alone.recipe(), alone)
    assert (result.processes, result.steps) == (1, STEPS)
    assert "processes 1 instead of 2" in capsys.readouterr().err
    one, two = steps_in(alone.path("train.jsonl")), steps_in(finished.run / "train.jsonl")
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in two], rel=1e-5)


@ends_with_signals
def test_two_processes_that_were_stopped_equal_one(finished):
    """One that was never stopped, and shared nothing."""
    assert finished.status == 0, finished.out + finished.errors
    assert finished.out.count("resuming from step-") == 1 and finished.out.count("epoch 10: validation") == 1
    assert "epoch 10: validation" in (finished.run / "log.txt").read_text()
    result = Run.at(finished.run).result("train", TrainResult)
    assert (result.processes, result.steps, result.device) == (2, STEPS, "cpu")

    alone = finished.run.with_name("one")
    shutil.copytree(finished.run, alone)
    shutil.rmtree(alone / "checkpoints")
    (alone / "train.jsonl").unlink()
    expected = train_here(Run.at(alone).recipe(), Run.at(alone))
    assert expected.processes == 1 and expected.tokens == result.tokens
    two, one = steps_in(finished.run / "train.jsonl"), steps_in(alone / "train.jsonl")
    assert [(line["step"], line["rows"]) for line in two] == [(line["step"], line["rows"]) for line in one]
    assert len(two) == STEPS and min(line["rows"] for line in two) == 1
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    assert [line["grad_norm"] for line in two] == pytest.approx([line["grad_norm"] for line in one], rel=1e-4)
    weights, reference = (
        load_file(folder / "checkpoints" / f"step-{STEPS:08d}" / "weights.safetensors")
        for folder in (finished.run, alone)
    )
    for name, value in reference.items():
        if not name.endswith("qkv.bias"):  # the keys' part of it has no gradient but rounding
            torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=2e-5, msg=name)


def without_seconds(path: Path) -> str:
    return "\n".join(line for line in path.read_text().splitlines() if '"seconds"' not in line)


@ends_with_signals
def test_the_run_is_evaluated_by_two_processes_as_by_one(finished):
    alone = finished.run.with_name("evaluated")
    shutil.copytree(finished.run, alone)
    (alone / "eval.json").unlink()
    run = Run.at(alone)
    execute(run, run.recipe(), load_pipeline("classify").stages, first="evaluate", until="evaluate")
    assert without_seconds(alone / "eval.json") == without_seconds(finished.run / "eval.json")
    assert (alone / "predictions.csv").read_text() == (finished.run / "predictions.csv").read_text()


def test_two_processes_fill_a_table(toy, tmp_path):
    (tmp_path / "rows.csv").write_text("text\n" + "".join(f"win cash {n}\n" for n in range(1030)))
    given = ("-m", "finetune", "predict", str(toy.run), "--csv", "rows.csv")
    command = start(tmp_path, *given, "--out", "two.csv", "--processes", "2")
    out, errors = command.communicate(timeout=120)
    assert command.returncode == 0 and "starting 2 processes" in out, out + errors
    assert out.count("two.csv: 1,030 rows") == 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        list(predict_table(toy.run / "export" / "hf", tmp_path / "rows.csv", tmp_path / "one.csv", None, None, True))
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "two.csv").read_text() == (tmp_path / "one.csv").read_text()


def test_all_processes_are_told_what_to_score(toy, finetune, tmp_path, monkeypatch):
    """That two processes share the rows is tested where two are started, in test_parallel."""
    (tmp_path / "rows.csv").write_text(
        "text,label\n" + "".join(f"see you at {n},ham\nwin {n},spam\n" for n in range(9))
    )
    given = ("evaluate", str(toy.run), "rows.csv", "--text", "text")
    alone, called, scored, score = finetune(*given), [], [], bundle.score_file

    def start(count, command, work):
        COMMANDS[command](**json.loads(json.dumps(work)))
        return count - 2

    monkeypatch.setattr("finetune.cli.use.start_processes", start)
    monkeypatch.setattr(ranks, "call_others", lambda *work: called.append(work))
    monkeypatch.setattr(bundle, "score_file", lambda *on: scored.append(on) or score(*on))
    first = finetune(*given, "--processes", "2")
    assert (first.status, first.out) == (0, alone.out) and "accuracy" in first.out, first.err
    [(what, *on)] = called
    WORK[what](*on)
    assert len(scored) == 2 and scored[0] == scored[1]


def test_all_processes_are_told_which_states_an_audit_needs(toy, monkeypatch):
    called, computed, compute = [], [], audit.text_states
    monkeypatch.setattr(audit, "call_others", lambda *work: called.append(work))
    monkeypatch.setattr(audit, "text_states", lambda *on: computed.append(compute(*on)) or computed[-1])
    run = Run.at(toy.run)
    audit._features(audit.STATES, run.recipe(), run, [])
    [(what, *on)] = called
    WORK[what](*on)
    assert computed[0].tobytes() == computed[1].tobytes()


def test_an_error_is_said_once_and_ends_all(toy, tmp_path):
    (tmp_path / "rows.csv").write_text("text,predicted\nhello,yes\n")
    given = ("-m", "finetune", "predict", str(toy.run), "--csv", "rows.csv", "--out", "two.csv")
    command = start(tmp_path, *given, "--processes", "2")
    out, errors = command.communicate(timeout=60)
    assert command.returncode == 2 and errors.count("error: ") == 1, errors
    assert "Traceback" not in errors and "ChildFailedError" not in errors and not (tmp_path / "two.csv").exists()


@pytest.mark.parametrize("status", [0, 2, 130])
def test_the_message_of_the_processes_is_not_followed_by_another(finetune, toy, monkeypatch, status):
    def supervise(command, environment, processes):
        write_json(Path(environment[STATUS]), {"status": status})
        return 0, status == 130

    monkeypatch.setattr("finetune.training.launch.supervise", supervise)
    Path("rows.csv").write_text("text\nhello\n")
    for command in (["predict", toy.run, "--csv", "rows.csv", "--out", "two.csv"], ["evaluate", toy.run, "rows.csv"]):
        found = finetune(*command, "--processes", "2")
        assert (found.status, found.out, found.err) == (status, "starting 2 processes\n", "")


def test_what_was_started_is_what_trains(monkeypatch, capsys):
    assert process_count(None) == process_count(1) == 1 and process_count(3) == 3
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert process_count(None) == 1
    assert "accelerate launch was asked for several processes and started one" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert process_count(None) == process_count(2) == 2 and not capsys.readouterr().err
    for other in (1, 3):
        with pytest.raises(RecipeError, match=f"got {other}"):
            process_count(other)


def test_a_machine_with_several_gpus_gets_a_process_on_each(monkeypatch, finetune):
    monkeypatch.delenv("FINETUNE_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    started = []
    monkeypatch.setattr("finetune.cli.train.start_processes", lambda count, *_: started.append(count) or 0)
    found = finetune("run", "spam-classifier", "--set", "weights=random-bytes")
    assert found.status == 0 and started == [4]
    assert found.out.count("4 GPUs: a process on each (--processes 1 uses one)") == 1
    request = make_recipe("spam-classifier", ["weights=random-bytes"])
    assert run_process_count(1, request) == 1 and run_process_count(2, request) == 2
    assert run_process_count(None, make_recipe("spam-methods", ["weights=random-bytes"])) == 1  # trains in one
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun was asked for one
    assert run_process_count(None, request) == 1
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert run_process_count(None, request) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("FINETUNE_DEVICE", "cpu")
    assert run_process_count(None, request) == 1
