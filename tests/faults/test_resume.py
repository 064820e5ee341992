"""Training that is killed, starved or damaged at any point goes on to the very bits of an unbroken run.

This file is also what the killed processes run: a fork server imports everything once, and each child, a fork of it,
carries out one order (see ``carry_out``).
"""

import hashlib
import json
import multiprocessing
import os
import random
import runpy
import shutil
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve()
pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork")
STEPS = 18  # 3 epochs of 6 steps


def carry_out(
    directory: str,
    method: str,
    settings: dict,
    checkpoint_seconds: float = 0.0,
    pause: float = 0.0,
    crash: tuple[str, int] | None = None,
    identity: str = "toy",
    full_disk: bool = False,
    count: bool = False,
) -> None:
    """Train the toy in a child process; the exit status is 0, 9 (crashed as ordered), 2 or 130, as the command's.

    crash: (name, n) ends the process at the n-th call of that file operation. count: write how many calls of each there
    were to counts.json. full_disk: no file may grow beyond 20 kB, which the moments do.
    """
    from finetune.errors import FinetuneError, Interrupted
    from finetune.training import loop

    toy = runpy.run_path(str(HERE.parents[1] / "toy.py"))
    folder = Path(directory)
    folder.mkdir(exist_ok=True)
    job, chosen = toy["toy_job"](method, **{"epochs": 3, "micro_batch_tokens": 10**6} | settings)
    inner = job.batch
    object.__setattr__(job, "batch", lambda rows: time.sleep(pause) or inner(rows))
    calls = interpose(crash)
    if full_disk:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    with open(folder / "screen.txt", "a", buffering=1) as screen:
        os.dup2(screen.fileno(), 1)
        os.dup2(screen.fileno(), 2)
        try:
            result = loop.train(job, chosen, folder, {"recipe": "same", "data": identity}, checkpoint_seconds)
            print("RESULT", json.dumps(result.to_json()), flush=True)
            status = 0
        except FinetuneError as error:
            print(type(error).__name__, error, flush=True)
            status = 2
        except Interrupted as stop:
            print(stop, flush=True)
            status = 130
    if count:
        (folder / "counts.json").write_text(json.dumps(calls))
    os._exit(status)


def interpose(crash: tuple[str, int] | None) -> dict[str, int]:
    """Count the file operations behind a checkpoint, and end the process at the one that `crash` names."""
    from finetune.training import resume

    calls = {}

    def watch(owner, name):
        inner = getattr(owner, name)

        def operation(*arguments, **named):
            calls[name] = calls.get(name, 0) + 1
            if crash == (name, calls[name]):
                os._exit(9)
            if name != "fsync":  # a killed process loses nothing that it wrote; only a machine without power does
                return inner(*arguments, **named)

        setattr(owner, name, operation)

    for owner, name in (
        (os, "fsync"),
        (os, "replace"),
        (Path, "rename"),
        (Path, "mkdir"),
        (shutil, "rmtree"),
        (resume, "write_tensors"),
        (resume, "write_json"),
    ):
        watch(owner, name)
    return calls


@pytest.fixture(scope="module")
def order():
    """``order(directory, method, settings, **how)`` starts a child; its ``join`` gives the exit status."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "torch._dynamo",
            "torch.distributed.tensor",
            "accelerate.accelerator",
            "pytest",
            "sklearn.metrics",
            "finetune.tasks.classify",
        ]
    )
    before = {name: os.environ.get(name) for name in ("ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES")}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    started = []

    def start(directory, method="full", settings=None, **how):
        arguments = dict(directory=str(directory), method=method, settings=settings or {}, **how)
        child = context.Process(target=runpy.run_path, args=(str(HERE), {"ORDER": arguments}, "child"))
        child.start()
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.join()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def finish(order):
    """Carry out an order to its end and return its exit status."""

    def run(*arguments, **how):
        child = order(*arguments, **how)
        child.join(60)
        return child.exitcode

    return run


def step_names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "checkpoints").glob("step-*"))


def outcome(directory: Path) -> dict:
    """What must be the same bits: the last weights and moments, the best step, and the log without its clock."""
    last = directory / "checkpoints" / f"step-{STEPS:08d}"
    digests = {
        name: hashlib.sha256((last / name).read_bytes()).hexdigest()
        for name in ("weights.safetensors", "optimizer.safetensors")
    }
    lines = [json.loads(line) for line in (directory / "train.jsonl").read_text().splitlines()]
    log = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    assert [line["step"] for line in log if "loss" in line] == list(range(1, STEPS + 1))
    return digests | {"log": log, "best": (directory / "checkpoints" / "best.json").read_text()}


@pytest.fixture(scope="module")
def unbroken(order, tmp_path_factory):
    """The outcome of a run that nothing disturbs, by method and settings."""
    found = {}

    def get(method="full", settings=None):
        key = (method, json.dumps(settings))
        if key not in found:
            directory = tmp_path_factory.mktemp("unbroken") / "run"
            child = order(directory, method, settings, checkpoint_seconds=1e9)
            child.join(60)
            assert child.exitcode == 0
            found[key] = outcome(directory)
        return found[key]

    return get


DROPOUT = {"dropout": 0.1}


@pytest.mark.parametrize(
    "method, settings, kills",
    [
        ("full", DROPOUT, 8),
        ("full", {"class_weights": "balanced", "micro_batch_tokens": 60}, 4),
        ("full", {"optimizer": "muon"}, 3),
        ("last-blocks", {}, 4),
        ("head", {}, 4),
        ("last-blocks", DROPOUT, 2),
        ("lora", {"lora_dropout": 0.1}, 3),
        ("lora", DROPOUT | {"lora_targets": ("blocks.1.*",)}, 3),
    ],
)
def test_a_killed_run_ends_in_the_same_bits(order, finish, unbroken, tmp_path, method, settings, kills):
    source = random.Random(f"{method} {kills}")
    directory = tmp_path / "run"
    survived = []
    for number in range(kills):
        goal = (number + 1) * STEPS // (kills + 1)
        child = order(directory, method, settings, pause=0.01)
        deadline = time.monotonic() + 60
        while child.is_alive() and time.monotonic() < deadline:
            names = step_names(directory)
            if names and int(names[-1][5:]) >= goal:
                break
            time.sleep(0.002)
        time.sleep(source.uniform(0, 0.05))  # anywhere in a step or in its saving
        child.kill()
        child.join()
        assert child.exitcode == -9, "it ended before it was killed"
        survived.append(step_names(directory)[-1])
    assert len(set(survived)) > 1
    assert finish(directory, method, settings) == 0
    assert outcome(directory) == unbroken(method, settings)
    assert (directory / "screen.txt").read_text().count("resuming from step-") == kills
    assert not [path for path in (directory / "checkpoints").iterdir() if path.name.startswith(".")]


def test_a_crash_at_any_file_operation_leaves_a_checkpoint_that_verifies(finish, tmp_path):
    from finetune.files import damage
    from finetune.training import resume

    short = {"epochs": 2, "batch_size": 22}  # 4 steps, 2 of them validated
    assert finish(tmp_path / "count", "head", short, count=True) == 0
    files = ("step-00000004/weights.safetensors", "step-00000004/optimizer.safetensors", "best.json")
    expected = [(tmp_path / "count" / "checkpoints" / name).read_bytes() for name in files]
    calls = json.loads((tmp_path / "count" / "counts.json").read_text())
    assert calls.keys() == {"fsync", "replace", "rename", "mkdir", "rmtree", "write_tensors", "write_json"}
    points = [(name, number) for name, total in calls.items() for number in range(1, total + 1)]
    assert len(points) > 60
    for name, number in sorted({*points[::5], *calls.items()}):  # spread over all, and the last of each
        directory = tmp_path / f"{name}-{number}"
        assert finish(directory, "head", short, crash=(name, number)) == 9, (name, number)
        root = directory / "checkpoints"
        if step_names(directory):
            newest = resume.newest(root)
            assert newest.name == step_names(directory)[-1] and damage(newest) == "", (name, number)
        assert finish(directory, "head", short) == 0
        assert [(root / name).read_bytes() for name in files] == expected, (name, number)


def test_a_full_disk_is_reported_and_nothing_is_lost(finish, unbroken, tmp_path):
    directory = tmp_path / "run"
    assert finish(directory, "full", DROPOUT, crash=("write_tensors", 9)) == 9  # four checkpoints
    before = {path.name: path.read_bytes() for path in directory.glob("checkpoints/step-*/*")}
    names = step_names(directory)
    assert finish(directory, "full", DROPOUT, full_disk=True) == 2
    assert "RunError cannot save a checkpoint" in (directory / "screen.txt").read_text()
    assert step_names(directory) == names and list(directory.glob("checkpoints/.*")) == []
    assert {path.name: path.read_bytes() for path in directory.glob("checkpoints/step-*/*")} == before
    assert finish(directory, "full", DROPOUT) == 0
    assert outcome(directory) == unbroken("full", DROPOUT)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.fixture(scope="module")
def half_way(order, tmp_path_factory):
    """A run that was cut off after some steps."""
    directory = tmp_path_factory.mktemp("half") / "run"
    child = order(directory, "full", DROPOUT, crash=("write_tensors", 17))
    child.join(60)
    assert child.exitcode == 9
    assert step_names(directory) == ["step-00000006", "step-00000007", "step-00000008"]  # the best, the newest two
    return directory


@pytest.mark.parametrize("harm", [Path.unlink, cut, flip_a_bit])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(half_way, finish, unbroken, tmp_path, harm):
    from finetune.training import resume

    files = ("weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json")
    for file in files:
        directory = tmp_path / file
        shutil.copytree(half_way, directory)
        *_, earlier, newest = step_names(directory)
        harm(directory / "checkpoints" / newest / file)
        found = resume.newest(directory / "checkpoints")
        assert found is not None and found.name == earlier, (file, harm)
    assert finish(directory, "full", DROPOUT) == 0
    screen = (directory / "screen.txt").read_text()
    assert f"{newest} is damaged" in screen and f"resuming from {earlier}" in screen
    assert outcome(directory) == unbroken("full", DROPOUT)


def test_a_damaged_checkpoint_does_not_count_as_one_of_the_newest_two(half_way, finish, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(half_way, directory)
    ahead = directory / "checkpoints" / "step-00000099"
    shutil.copytree(directory / "checkpoints" / "step-00000008", ahead)
    flip_a_bit(ahead / "state.json")
    assert finish(directory, "full", DROPOUT, crash=("write_tensors", 5)) == 9
    from finetune.files import damage

    sound = [name for name in step_names(directory) if not damage(directory / "checkpoints" / name)]
    assert sound == step_names(directory) == ["step-00000006", "step-00000009", "step-00000010"]


def test_if_all_are_damaged_nothing_is_guessed(half_way, finish, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(half_way, directory)
    for name in step_names(directory):
        flip_a_bit(directory / "checkpoints" / name / "weights.safetensors")
    before = (directory / "train.jsonl").read_bytes()
    assert finish(directory, "full", DROPOUT) == 2
    screen = (directory / "screen.txt").read_text()
    assert "RunError" in screen and "no checkpoint can be used" in screen and "--from train" in screen
    assert all(f"{name} (weights.safetensors has changed since" in screen for name in step_names(directory))
    assert (directory / "train.jsonl").read_bytes() == before


def test_checkpoints_of_another_run_are_refused_by_what_changed(half_way, finish, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(half_way, directory)
    assert finish(directory, "full", DROPOUT, identity="other rows") == 2
    screen = (directory / "screen.txt").read_text()
    assert "RunError" in screen and "these checkpoints belong to another run; got changed: data. " in screen
    assert finish(directory, "head", DROPOUT) == 2
    assert "its tensors are not the ones that this method trains" in (directory / "screen.txt").read_text()


def test_another_number_of_threads_is_reported(half_way, finish, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(half_way, directory)
    assert finish(directory, "full", DROPOUT | {"threads": 2}, crash=("write_tensors", 1)) == 9
    screen = (directory / "screen.txt").read_text()
    assert "resuming with threads 2 instead of 1" in screen and "last bits may differ" in screen


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT"])
def test_a_signal_from_outside_saves_and_the_rest_follows(order, finish, unbroken, tmp_path, signal_name):
    import signal

    directory = tmp_path / "run"
    child = order(directory, "full", DROPOUT, checkpoint_seconds=1e9, pause=0.03)
    log = directory / "train.jsonl"
    while child.is_alive() and (not log.exists() or log.read_text().count("\n") < 3):
        time.sleep(0.005)
    os.kill(child.pid, getattr(signal, signal_name))
    child.join(30)
    assert child.exitcode == 130 and "the state is saved" in (directory / "screen.txt").read_text()
    assert len(step_names(directory)) == 1
    assert finish(directory, "full", DROPOUT) == 0
    assert outcome(directory) == unbroken("full", DROPOUT)


def test_going_on_at_the_end_changes_nothing(finish, tmp_path):
    directory = tmp_path / "run"
    assert finish(directory, "full", DROPOUT) == 0
    files = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != "screen.txt"}
    assert finish(directory, "full", DROPOUT) == 0
    assert {
        path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != "screen.txt"
    } == files
    first, second = (
        json.loads(line.partition(" ")[2])
        for line in (directory / "screen.txt").read_text().splitlines()
        if line.startswith("RESULT")
    )
    assert "estimate" in first and "estimate" not in second  # from first steps, of which the second has none
    measured = {"estimate", "seconds", "tokens_per_second", "peak_bytes"}
    assert first == second | {key: first[key] for key in measured}


def test_two_processes_cannot_use_one_run(tmp_path):
    from finetune.errors import RunError
    from finetune.run import Run

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def hold():
        with Run(tmp_path).locked():
            theirs.send("held")
            theirs.recv()

    child = context.Process(target=hold, daemon=True)
    child.start()
    assert ours.poll(30) and ours.recv() == "held"
    begun = time.monotonic()
    with (
        pytest.raises(RunError, match=f"another process is using this run; got process {child.pid}"),
        Run(tmp_path).locked(),
    ):
        raise AssertionError("locked twice")
    assert time.monotonic() - begun < 1
    child.kill()  # a lock does not outlive its process
    child.join()
    with Run(tmp_path).locked():
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


if __name__ == "child":
    carry_out(**ORDER)  # noqa: F821  given by the fork server's child
