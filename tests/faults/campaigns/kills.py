"""Kill runs with SIGKILL at random moments, start them again, and compare every file with an unbroken run's.

    python tests/faults/campaigns/kills.py --tries 100        all cases in turn, about half an hour
    python tests/faults/campaigns/kills.py --seconds 120      one case with the bundled weights: make verify-resume

A try starts a run and kills it after a random share of the time that an unbroken run took, one to three times; then the
same command runs to the end. It holds if the exported weights, the optimizer, the metrics, the predictions and the
report's figures have the bytes of the unbroken run, and no draft of a file is left over.
"""

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import record

TINY = {
    "weights": "scratch",
    "shape.layers": 2,
    "shape.width": 16,
    "shape.heads": 2,
    "shape.context": 64,
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.threads": 1,
    "evaluate.resamples": 100,
}
BY_PIPELINE = {"instruct": {"train.max_steps": 30, "instruct.max_new_tokens": 8}, "pretrain": {"train.max_steps": 30}}
CASES = {  # name: pipeline, settings beyond TINY, options
    "classify, all weights": ("spam-classifier", {"train.method": "full"}, []),
    "classify, last block": ("spam-classifier", {"train.method": "last-blocks", "train.last_blocks": 1}, []),
    "classify, LoRA": ("spam-classifier", {"train.method": "lora", "train.dropout": 0.1}, []),
    "classify, accumulation": ("spam-classifier", {"train.micro_batch_tokens": 128}, []),
    "classify, early stopping": ("spam-classifier", {"train.epochs": 12, "train.patience": 1}, []),
    "classify, bf16": ("spam-classifier", {"train.precision": "bf16"}, []),
    "classify, another seed": ("spam-classifier", {"train.seed": 7, "split.seed": 7}, []),
    "instruct": ("instruct", {}, []),
    "seq2seq": ("seq2seq", {"train.max_steps": 30}, []),
    "tag": ("tagger", {"train.max_steps": 30}, []),
    "pretrain": ("pretrain", {}, []),
    "classify, two processes": ("spam-classifier", {}, ["--processes", "2"]),
}
BUNDLED = {"weights": "mini", "train.max_steps": 60, "train.threads": 1, "evaluate.resamples": 100}
TIMES = re.compile(r"seconds|time|rate|per_second|memory|bytes|date|estimate|host|cpu")  # keys that differ between runs
COMPARED = ("export/hf/*.safetensors", "predictions.csv", "answers.csv", "tags.csv", "checkpoints/*/*.safetensors")


def command(case: tuple, name: str) -> list[str]:
    """The arguments of a run."""
    pipeline, settings, options = case
    pairs = [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "finetune", "run", pipeline, "--name", name, *pairs, *options]


def start(arguments: list[str], folder: Path) -> subprocess.Popen:
    """A run in a process group of its own, its output in a file."""
    environment = os.environ | {
        "PYTHONPATH": str(record.ROOT),
        "FINETUNE_OFFLINE": "1",
        "FINETUNE_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
    }
    with open(folder / "screen.txt", "ab") as screen:
        return subprocess.Popen(
            arguments, cwd=folder, env=environment, stdout=screen, stderr=screen, start_new_session=True
        )


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


def one_try(case: tuple, folder: Path, chance: random.Random, usual_seconds: float) -> Counter:
    """Kill a run one to three times, then let it end; returns the stages in which it was killed."""
    stages = Counter()
    for _ in range(chance.choice((1, 1, 2, 3))):
        process = start(command(case, "killed"), folder)
        try:
            process.wait(timeout=chance.uniform(0.2, usual_seconds))
            break  # it was faster than the kill
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        screen = (folder / "screen.txt").read_text(encoding="utf-8", errors="replace")
        stages[(re.findall(r"^\[\d\] (\w+)", screen, re.M) or ["start"])[-1]] += 1
    process = start(command(case, "killed"), folder)
    if process.wait(timeout=600) != 0:
        raise AssertionError((folder / "screen.txt").read_text(encoding="utf-8", errors="replace")[-2000:])
    return stages


def differences(run: Path, expected: dict[str, str]) -> list[str]:
    """What a finished run has otherwise than the unbroken one, and drafts of files that it left."""
    found = results(run)
    names = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    return names + [f"left over: {path.name}" for path in run.rglob(".*.tmp")]


def unbroken(case: tuple, folder: Path) -> tuple[dict[str, str], float]:
    """The results of a run that nothing disturbed, and how long it took."""
    folder.mkdir(parents=True)
    before = time.perf_counter()
    if start(command(case, "unbroken"), folder).wait(timeout=900) != 0:
        raise SystemExit((folder / "screen.txt").read_text(encoding="utf-8", errors="replace")[-3000:])
    return results(folder / "runs" / "unbroken"), time.perf_counter() - before


def campaign(cases: dict[str, tuple], tries: int, seed: int, folder: Path, deadline: float) -> list[record.Row]:
    """Try the cases in turn; a row for each."""
    known: dict[str, tuple] = {}
    held, failures, stages = Counter(), {name: [] for name in cases}, {name: Counter() for name in cases}
    for number in range(tries):
        name = list(cases)[number % len(cases)]
        if number and time.monotonic() > deadline:
            break
        if name not in known:
            known[name] = unbroken(cases[name], folder / f"unbroken-{len(known)}")
            print(f"{name}: an unbroken run took {known[name][1]:.0f} s", flush=True)
        expected, seconds = known[name]
        place = folder / f"try-{number}"
        place.mkdir()
        try:
            stages[name] += one_try(cases[name], place, random.Random(f"{seed} {number}"), seconds)
            wrong = differences(place / "runs" / "killed", expected)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            wrong = [str(error)]
        held[name] += not wrong
        if wrong:
            failures[name].append(f"seed {seed}, try {number}: {'; '.join(wrong)}")
        where = ", ".join(f"{stage} {count}" for stage, count in stages[name].items())
        print(f"try {number}: {name}: {wrong or 'equal'} (killed so far in: {where})", flush=True)
    return [
        record.Row(
            "Kills",
            f"SIGKILL at random moments: {name}",
            "weights, optimizer, losses, metrics and predictions have the bits of an unbroken run",
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
