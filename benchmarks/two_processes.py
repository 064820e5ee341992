"""Compare two processes of one thread each with one process of one and of two threads, on the same training on a CPU.

Tokens per second of wall-clock time in training, including validation, from each run's own record; the ways take turns.
Wall-clock time is unreliable on a machine with other load, so the load average is recorded as well.

    python benchmarks/two_processes.py --rounds 3

Prints a table, and writes two_processes.json and its section of README.md.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from few_labels import write_section
from machine import instruction_set, processor_name

from finetune.files import read_json, write_json
from finetune.hub.assets import asset

HERE = Path(__file__).resolve().parent
OUT, PAGE = HERE / "two_processes.json", HERE / "README.md"
WAYS = {  # processes, and threads per process
    "1 process, 1 thread": (1, 1),
    "1 process, 2 threads": (1, 2),
    "2 processes, 1 thread each": (2, 1),
}
WORKS = {  # the settings of a run from mini, up to its training
    "classify, all weights, 16 messages a step": [
        "spam-classifier",
        *("--set", "data=spam-sample", "--set", "train.method=full", "--set", "train.max_steps=60"),
    ],
    "pretrain, 16 blocks of 256 tokens a step": [
        "pretrain",
        *("--set", f"data={asset('data', 'text', 'sample.txt')}", "--set", "train.max_steps=12"),
    ],
}


def tokens_per_second(folder: str, name: str, work: list[str], processes: int, threads: int) -> float:
    """Tokens per second of one run's training, from its own record."""
    command = [
        sys.executable,
        "-m",
        "finetune",
        "run",
        *work,
        "--name",
        name,
        "--set",
        "weights=mini",
        "--until",
        "train",
        "--fresh",  # the rounds have the same settings
    ]
    command += ["--processes", str(processes), "--set", f"train.threads={threads}", "--set", "train.batch_size=16"]
    command += ["--set", "train.evaluations_per_epoch=1", "--set", "train.precision=fp32"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    trained = read_json(Path(folder) / "runs" / name / "stages" / "04-train.json")["result"]
    assert (trained["processes"], trained["threads"]) == (processes, threads), trained
    return trained["tokens_per_second"]


def table(result: dict) -> str:
    """The section of README.md."""
    lines = [
        "## Two processes on a CPU",
        "",
        f"Training from mini in fp32 on two cores of an {result['machine']}; tokens per second by the clock, validation "
        f"included; medians of {result['rounds']} alternating rounds, beside the first row's. Load average at the start: "
        f"{result['load_average']:.1f}.",
        "",
        f"    python benchmarks/two_processes.py --rounds {result['rounds']}",
        "",
        "| work | | tokens/s | rounds | ratio |",
        "|---|---|---:|---|---:|",
    ]
    for work, ways in result["works"].items():
        single = next(iter(ways.values()))
        for way, rates in ways.items():
            ratio = statistics.median(a / b for a, b in zip(rates, single, strict=True))
            rounds = ", ".join(f"{rate:,.0f}" for rate in rates)
            lines.append(f"| {work} | {way} | {statistics.median(rates):,.0f} | {rounds} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    machine = f"{processor_name()} ({instruction_set()})"
    result = {"machine": machine, "rounds": asked.rounds, "load_average": os.getloadavg()[0], "works": {}}
    with tempfile.TemporaryDirectory() as folder:
        for number, (work, settings) in enumerate(WORKS.items()):
            rates: dict[str, list[float]] = {way: [] for way in WAYS}
            for turn in range(asked.rounds):
                for way, (processes, threads) in WAYS.items():
                    name = f"run-{number}-{turn}-{processes}-{threads}"
                    rates[way].append(tokens_per_second(folder, name, settings, processes, threads))
                    print(work, way, rates[way][-1], flush=True)
            result["works"][work] = rates
    write_json(OUT, result)
    write_section(PAGE, OUT.stem, table(result))


if __name__ == "__main__":
    main()
