"""Kill runs with SIGKILL at random moments, start them again, and compare every file with an unbroken run's.

    python tests/faults/campaigns/kills.py --tries 100        all cases in turn, about half an hour
    python tests/faults/campaigns/kills.py --seconds 120      one case with the bundled weights: make verify-resume

A try draws a stage, waits until the run is in it, and kills it a random moment later, one to three times; then the same
command runs to the end. Validations, and so checkpoints, fall within the epochs. With two processes either all of them
are killed, or the parent alone, or one worker alone. A try holds if the exported weights, the optimizer, the losses,
the metrics and the predictions have the bytes of the unbroken run, and no draft of a file is left over.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import record

TINY = {
    "weights": "scratch",
    "shape.layers": 2,
    "shape.width": 16,
    "shape.heads": 2,
    "shape.context": 64,
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.evaluations_per_epoch": 3,
    "train.patience": 9,
    "train.threads": 1,
    "evaluate.resamples": 100,
}
STAGE = re.compile(r"^\[\d+\] (\w+)", re.M)
START = "start"  # before the first stage
BY_PIPELINE = {  # some steps of a long epoch, with validations among them
    "instruct": {"train.max_steps": 30, "instruct.max_new_tokens": 8},
    "seq2seq": {"train.max_steps": 40, "train.evaluations_per_epoch": 150},
    "tagger": {"train.max_steps": 30},
    "pretrain": {"train.max_steps": 60, "train.evaluations_per_epoch": 10},
}
CASES = {  # name: pipeline, settings beyond TINY, options
    "classify, all weights": ("spam-classifier", {"train.method": "full"}, []),
    "classify, last block": ("spam-classifier", {"train.method": "last-blocks", "train.last_blocks": 1}, []),
    "classify, LoRA": ("spam-classifier", {"train.method": "lora", "train.dropout": 0.1}, []),
    "classify, accumulation": ("spam-classifier", {"train.micro_batch_tokens": 128}, []),
    "classify, early stopping": ("spam-classifier", {"train.epochs": 12, "train.patience": 1}, []),
    "classify, bf16": ("spam-classifier", {"train.precision": "bf16"}, []),
    "classify, another seed": ("spam-classifier", {"train.seed": 7, "split.seed": 7}, []),
    "instruct": ("instruct", {}, []),
    "seq2seq": ("seq2seq", {}, []),
    "tag": ("tagger", {}, []),
    "pretrain": ("pretrain", {}, []),
    "classify, two processes": ("spam-classifier", {}, ["--processes", "2"]),
}
LONGEST_SECONDS = 900  # of a run on a busy machine
ALONE_SECONDS = 120  # until the processes that were not killed have ended
BUNDLED = {"weights": "mini", "train.max_steps": 60, "train.threads": 1, "evaluate.resamples": 100}
TIMES = re.compile(r"seconds|time|rate|per_second|memory|bytes|date|estimate|host|cpu")  # keys that differ between runs
COMPARED = ("export/hf/*.safetensors", "predictions.csv", "answers.csv", "tags.csv", "checkpoints/*/*.safetensors")


def command(case: tuple, name: str) -> list[str]:
    """The arguments of a run."""
    pipeline, settings, options = case
    pairs = [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "finetune", "run", pipeline, "--name", name, *pairs, *options]


def start(arguments: list[str], folder: Path) -> subprocess.Popen:
    """A run in a process group of its own, which Ctrl-C does not reach, its output in a file."""
    environment = os.environ | {
        "PYTHONPATH": str(record.ROOT),
        "FINETUNE_OFFLINE": "1",
        "FINETUNE_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    with open(folder / "screen.txt", "ab") as screen:
        return subprocess.Popen(arguments, cwd=folder, env=environment, stdout=screen, stderr=screen, process_group=0)


def without_times(value: object) -> object:
    """A JSON value without what a clock or a machine decides."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if not TIMES.search(key)}
    if isinstance(value, list):
        return [without_times(inner) for inner in value]
    return value


def results(run: Path) -> dict[str, str]:
    """Name and hash of everything that the same recipe decides."""
    found = {}
    for pattern in COMPARED:
        for path in sorted(run.glob(pattern)):
            found[path.relative_to(run).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    figures = without_times(json.loads((run / "eval.json").read_text(encoding="utf-8")))
    found["eval.json"] = hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()
    steps = [json.loads(line) for line in (run / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [[step.get("step"), step.get("loss"), step.get("grad_norm")] for step in steps if "loss" in step]
    found["train.jsonl"] = hashlib.sha256(json.dumps(losses).encode()).hexdigest()
    return found


def stage_of(screen: str) -> str:
    """The stage that a run has come to."""
    return (STAGE.findall(screen) or [START])[-1]


def follow(process: subprocess.Popen, screen: Path) -> Iterator[str]:
    """The stage that a run is in, again and again until it ends; `screen` may hold what earlier runs said."""
    before = screen.stat().st_size
    deadline = time.monotonic() + LONGEST_SECONDS
    while process.poll() is None:
        if time.monotonic() > deadline:
            kill_all(process.pid)
            raise AssertionError(f"not finished after {LONGEST_SECONDS} s")
        yield stage_of(screen.read_bytes()[before:].decode(errors="replace"))
        time.sleep(0.01)


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started, also in other sessions."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def kill_all(pid: int) -> None:
    """SIGKILL to a process and all that it started."""
    members = family(pid)
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(members, timeout=30)


def kill(process: subprocess.Popen, chance: random.Random) -> str:
    """SIGKILL to all processes of a run or, if there are several, sometimes to one; the others have to end by themselves."""
    members = family(process.pid)
    victim = chance.choice(("all", "parent", "worker")) if len(members) > 1 else "all"
    if victim == "all":
        kill_all(process.pid)
    else:
        one = members[0] if victim == "parent" else members[-1]
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
        if victim == "worker":  # the same command may follow a killed parent at once: its workers still save
            _, alive = psutil.wait_procs(members, timeout=ALONE_SECONDS)
            if alive:
                kill_all(process.pid)
                raise AssertionError(f"{len(alive)} processes go on {ALONE_SECONDS} s after one was killed")
    process.wait()
    return victim


def one_try(case: tuple, folder: Path, chance: random.Random, lengths: dict[str, float]) -> Counter:
    """Kill a run one to three times, then let it end; returns the stages in which it was killed."""
    stages, screen = Counter(), folder / "screen.txt"
    weights = [3 if stage == "train" else 1 for stage in lengths]
    aims = chance.choices(list(lengths), weights, k=chance.choice((1, 1, 2, 3)))
    for aim in sorted(aims, key=list(lengths).index):
        process = start(command(case, "killed"), folder)
        began, delay = 0.0, chance.uniform(0, lengths[aim])
        for stage in follow(process, screen):
            began = began or (time.monotonic() if stage == aim else 0.0)
            if began and time.monotonic() >= began + delay:
                victim = kill(process, chance)
                stages[stage if victim == "all" else f"{stage} ({victim} alone)"] += 1
                break
    process = start(command(case, "killed"), folder)
    if run_to_end(process, screen)[0]:
        raise AssertionError(screen.read_text(encoding="utf-8", errors="replace")[-2000:])
    return stages


def run_to_end(process: subprocess.Popen, screen: Path) -> tuple[int, dict[str, float]]:
    """A run's exit status, and the seconds that each of its stages took."""
    began = {START: time.monotonic()}
    for stage in follow(process, screen):
        began.setdefault(stage, time.monotonic())
    ends = [*began.values(), time.monotonic()]
    return process.wait(), {stage: ends[at + 1] - begin for at, (stage, begin) in enumerate(began.items())}


def differences(run: Path, expected: dict[str, str]) -> list[str]:
    """What a finished run has otherwise than the unbroken one, and drafts of files that it left."""
    found = results(run)
    names = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    return names + [f"left over: {path.name}" for path in run.rglob(".*.tmp")]


def unbroken(case: tuple, folder: Path) -> tuple[dict[str, str], dict[str, float]]:
    """The results of a run that nothing disturbed, and the seconds of each of its stages."""
    folder.mkdir(parents=True)
    status, lengths = run_to_end(start(command(case, "unbroken"), folder), folder / "screen.txt")
    if status:
        raise SystemExit((folder / "screen.txt").read_text(encoding="utf-8", errors="replace")[-3000:])
    return results(folder / "runs" / "unbroken"), lengths


def campaign(cases: dict[str, tuple], tries: int, seed: int, folder: Path, deadline: float) -> list[record.Row]:
    """Try the cases in turn; a row for each."""
    known: dict[str, tuple] = {}
    held, failures, stages = Counter(), {name: [] for name in cases}, {name: Counter() for name in cases}
    asked: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    for number in range(tries):
        name = list(cases)[number % len(cases)]
        if asked or (number and time.monotonic() > deadline):
            break
        if name not in known:
            known[name] = unbroken(cases[name], folder / f"unbroken-{len(known)}")
            print(f"{name}: an unbroken run took {sum(known[name][1].values()):.0f} s", flush=True)
        expected, lengths = known[name]
        place = folder / f"try-{number}"
        place.mkdir()
        try:
            stages[name] += one_try(cases[name], place, random.Random(f"{seed} {number}"), lengths)
            wrong = differences(place / "runs" / "killed", expected)
        except AssertionError as error:
            wrong = [str(error)]
        if not wrong:
            shutil.rmtree(place)
        held[name] += not wrong
        if wrong:
            failures[name].append(f"seed {seed}, try {number}: {'; '.join(wrong)}")
        where = ", ".join(f"{stage} {count}" for stage, count in stages[name].items())
        print(f"try {number}: {name}: {wrong or 'equal'} (killed so far in: {where})", flush=True)
    return [
        record.Row(
            "Kills",
            f"SIGKILL at random moments: {name}",
            "weights, optimizer, losses, metrics and predictions are bit for bit those of an uninterrupted run",
            held[name] + len(failures[name]),
            held[name],
            "python tests/faults/campaigns/kills.py --tries 100 --keep",
            tuple(failures[name]),
            dict(sorted(stages[name].items())),
        )
        for name in known
    ]


def main() -> None:
    """Read the options and run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, help="stop after so long; one case with the bundled weights")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    parser.add_argument("--keep", action="store_true", help="write the rows into record.json")
    arguments = parser.parse_args()
    cases = {
        name: (pipeline, TINY | BY_PIPELINE.get(pipeline, {}) | settings, options)
        for name, (pipeline, settings, options) in CASES.items()
        if name in arguments.only
    }
    if arguments.seconds:
        cases = {"classify with the bundled weights": ("spam-classifier", BUNDLED, [])}
    deadline = time.monotonic() + (arguments.seconds or 1e9)
    with tempfile.TemporaryDirectory() as folder:
        rows = campaign(cases, arguments.tries, arguments.seed, Path(folder), deadline)
    record.finish(rows, arguments.keep)


if __name__ == "__main__":
    main()
