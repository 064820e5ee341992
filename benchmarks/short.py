"""The short set: our cost compared with the best available rival, in one table of ratios; under 15 minutes on two cores.

Every ratio is the rival's processor time over ours, the median of alternating rounds on one thread. Prints the table with
this machine's instruction set. With --record its rows replace those of the same work and machine in summary.jsonl, from
which the table at the top of README.md is generated; that file also has rows of longer measurements.

    python benchmarks/short.py            # make bench
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tokens
import torch
import transformers
from generation import measure as measure_generation
from generation_engines import NOT_COMPILED
from machine import device_name, instruction_set

import finetune
from finetune.files import atomic_write
from finetune.hub.assets import asset

HERE = Path(__file__).parent
ROWS, PAGE = HERE / "summary.jsonl", HERE / "README.md"
MARKS = "<!-- begin summary -->", "<!-- end summary -->"
COMMAND = "python benchmarks/short.py"


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    work: str
    ours: str
    rival: str
    ratio: float  # above 1: ours needs less time
    machine: str
    command: str


def machine() -> str:
    """The processor or GPU, with its instruction set."""
    return f"{device_name()} ({instruction_set()})"


def processor_seconds(command: list[str], rounds: int) -> list[float]:
    """Processor seconds of a command in its own process, once per round."""
    found = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return found


def tokenize() -> list[Row]:
    """Tokenization of many short texts."""
    found = tokens.measure(100_000, rounds=3)
    ours, rival = found["finetune"], found["tiktoken, encode_ordinary_batch"]
    return [
        Row(
            "tokens of 100,000 short texts",
            f"{ours['texts_per_cpu_second']:,.0f} texts per CPU second",
            f"tiktoken's encode_ordinary_batch, {rival['texts_per_cpu_second']:,.0f}",
            rival["cpu_ratio"],
            machine(),
            "python benchmarks/tokens.py",
        )
    ]


def start_up() -> list[Row]:
    """`predict` of one message from a cold start, with the bundled mini, against transformers' pipeline on its export."""
    with tempfile.TemporaryDirectory() as folder:
        texts = [f"{'win cash now' if number % 2 else 'see you at home'} {number}" for number in range(40)]
        labels = ["spam" if number % 2 else "ham" for number in range(40)]
        finetune.TextClassifier(weights="mini", method="features").fit(texts, labels).save(folder)
        theirs = f"import transformers; transformers.pipeline('text-classification', {folder!r})('win cash')"
        ours, rival = [], []
        for _ in range(3):
            ours += processor_seconds([sys.executable, "-m", "finetune", "predict", folder, "win cash"], 1)
            rival += processor_seconds([sys.executable, "-c", theirs], 1)
    return [
        Row(
            "predict one message from a cold start, mini",
            f"{statistics.median(ours):.1f} CPU seconds",
            f"transformers' pipeline, {statistics.median(rival):.1f}",
            statistics.median(b / a for a, b in zip(ours, rival, strict=True)),
            machine(),
            COMMAND,
        )
    ]


def generation(packages: Path | None) -> list[Row]:
    """Greedy decoding of GPT-2 124M, against the fastest rival of the same width."""
    if packages:
        sys.path.append(str(packages))
    asked = argparse.Namespace(
        layers=12, threads=1, widths=["fp32", "int8", "int4"], prompt_tokens=64, new_tokens=24, rounds=3
    )
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        cases = [measure_generation(Path(folder) / "gpt2", batch, asked) for batch in (1, 8)]
    return rows_of_generation(cases)


def rows_of_generation(cases: list[dict]) -> list[Row]:
    """The compiled step against the fastest rival of the same width, from the cases of generation.py."""
    found = []
    for case in cases:
        rates = {row["engine"]: row["tokens_per_cpu_second"] for row in case["rows"]}
        found += [
            Row(
                f"generation, 124M, {row['width']}, batch {case['batch']}",
                f"{row['tokens_per_cpu_second']:.1f} tokens per CPU second",
                f"{row['best_rival']}, {rates[row['best_rival']]:.1f}",
                row["ratio"],
                machine(),
                "python benchmarks/generation.py",
            )
            for row in case["rows"]
            if "ratio" in row and row["engine"] != NOT_COMPILED
        ]
    return found


def training() -> list[Row]:
    """Optimizer steps on all weights of mini, against a plain transformers loop on the same padded batches."""
    sys.path.append(str(HERE))
    from training_steps import alternate, ratio

    found = alternate(asset("weights", "mini"), steps=10, rounds=3)
    rates = {name: statistics.median(own) for name, own in found.items()}
    return [
        Row(
            f"steps of training, mini, all weights, fp32, beside {said}",
            f"{rates['ours']:,.0f} real tokens per CPU second",
            f"transformers, {rates[rival]:,.0f}",
            ratio(found, rival),
            machine(),
            "python benchmarks/training_steps.py",
        )
        for rival, said in (("best", "the best settings"), ("default", "the Trainer's defaults"))
    ]


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = ["| work | ours | best rival | ratio | machine | command |", "|---|---|---|---:|---|---|"]
    lines += [
        f"| {row.work} | {row.ours} | {row.rival} | {row.ratio:.2f} | {row.machine} | `{row.command}` |" for row in rows
    ]
    return "\n".join(lines)


def read_rows(path: Path = ROWS) -> list[Row]:
    """The rows of summary.jsonl."""
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def section(rows: list[Row]) -> str:
    """The top of README.md."""
    return f"{MARKS[0]}\n{table(rows)}\n{MARKS[1]}"


def record(rows: list[Row]) -> None:
    """Write the rows to summary.jsonl and the page, replacing those of the same work and machine."""
    known = {(row.work, row.machine): row for row in [*read_rows(ROWS), *rows]}
    with atomic_write(ROWS) as file:
        file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in known.values())
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(MARKS[0])
    PAGE.write_text(before + section([*known.values()]) + rest.partition(MARKS[1])[2], encoding="utf-8")


def main() -> None:
    """Measure, print and, if asked, record."""
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], list[Row]]] = {"tokens": tokenize, "start-up": start_up, "training": training}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*parts, "generation"], default=[*parts, "generation"])
    parser.add_argument("--packages", type=Path, help="a folder with further packages, such as ctranslate2")
    parser.add_argument("--record", action="store_true", help="keep the rows, and write them to README.md")
    arguments = parser.parse_args()
    parts["generation"] = lambda: generation(arguments.packages)
    begun, rows = time.monotonic(), []
    for name in arguments.only:
        rows += parts[name]()
        print(f"{name}: {time.monotonic() - begun:.0f} s so far", file=sys.stderr, flush=True)
    print(table(rows))
    if arguments.record:
        record(rows)


if __name__ == "__main__":
    main()
