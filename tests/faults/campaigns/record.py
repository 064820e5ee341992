"""The record of the campaigns: how often each fault was tried, how often the tool held, and the command that repeats it.

python tests/faults/campaigns/record.py      writes docs/reliability.md from record.json
"""

import argparse
import json
import platform
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
RECORD = Path(__file__).with_name("record.json")
PAGE = ROOT / "docs" / "reliability.md"
INTRODUCTION = """# Reliability

The faults that were injected on purpose, how many were tried, and how often the tool held. Each table is written by the
command below it, which you can repeat on your own machine; another seed tries other moments and other bytes. A try holds
if it ended as the second column says.

`make verify-resume` kills a run on your own machine and compares its bits, in about two minutes; `make test-faults` repeats
all campaigns.
"""


@dataclass(frozen=True)
class Row:
    """One kind of fault. Failures name the seed or the case of each try that did not hold."""

    campaign: str
    fault: str
    holds: str
    tried: int
    held: int
    command: str
    failures: tuple[str, ...] = ()
    counts: dict[str, int] | None = None


def add(rows: list[Row], path: Path = RECORD) -> None:
    """Write rows into the record, in place of earlier rows of the same campaign and fault."""
    new = {(row.campaign, row.fault): asdict(row) for row in rows}
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = [row for row in old if (row["campaign"], row["fault"]) not in new]
    everything = sorted([*kept, *new.values()], key=lambda row: (row["campaign"], row["fault"]))
    path.write_text(json.dumps(everything, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def page(rows: list[dict]) -> str:
    """The Markdown page."""
    lines = [INTRODUCTION]
    for campaign in dict.fromkeys(row["campaign"] for row in rows):
        lines += [f"## {campaign}", "", "| fault | it holds if | tried | held |", "|---|---|--:|--:|"]
        members = [row for row in rows if row["campaign"] == campaign]
        lines += [f"| {row['fault']} | {row['holds']} | {row['tried']:,} | {row['held']:,} |" for row in members]
        counts = sum((Counter(row["counts"]) for row in members), Counter())
        if counts:
            places = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
            lines += ["", f"{counts.total():,} in all, by the stage that they hit: {places}."]
        commands = dict.fromkeys(row["command"] for row in members)
        lines += ["", *(f"    {command}" for command in commands), ""]
    return "\n".join(lines)


def machine() -> str:
    """What a row was measured on, without anything that names the machine."""
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def finish(rows: list[Row], keep: bool) -> None:
    """Print the rows, keep them where asked, and exit with 1 if a try did not hold."""
    for row in rows:
        print(f"{row.campaign}: {row.fault}: held {row.held:,} of {row.tried:,} ({machine()})")
        for failure in row.failures:
            print(f"  did not hold: {failure}")
    if keep:
        add(rows)
    sys.exit(any(row.held < row.tried for row in rows))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    PAGE.write_text(page(json.loads(RECORD.read_text(encoding="utf-8"))), encoding="utf-8")
