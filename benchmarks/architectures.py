"""`finetune compare-architectures` at full length: three architectures of equal size on the same tasks, from mini.

    python benchmarks/architectures.py            runs the command on its bundled tables; passes --set KEY=VALUE on
    python benchmarks/architectures.py --page     writes the section again, from architectures.json

Writes the content of the command's comparison.json, without curves and examples, and the command's own table.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import few_labels
from machine import device_name

from finetune.comparisons.architectures.page import screen_table, verdict
from finetune.comparisons.architectures.results import ArchitecturesComparison
from finetune.console import say
from finetune.files import read_json, write_json

RESULT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).with_name("README.md")
LEFT_OUT = ("curve", "examples")  # long fields of an entry that the table does not show


def measure(arguments: list[str]) -> None:
    """Run the command in a temporary folder and save its figures."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(
            [sys.executable, "-m", "finetune", "compare-architectures", "--name", "measured", *arguments],
            cwd=place,
            check=True,
        )
        found = read_json(Path(place) / "runs" / "measured" / "comparison.json")
    for group in found["groups"]:
        group["entries"] = [
            {key: value for key, value in entry.items() if key not in LEFT_OUT} for entry in group["entries"]
        ]
    write_json(RESULT, found | {"machine": device_name()})


def section(found: dict) -> str:
    """The page's section: the command's own sentence and table."""
    where = f"{found['machine']}, {found['threads']} thread(s), {found['precision']}"
    groups = [
        group | {"entries": [entry | dict.fromkeys(LEFT_OUT, []) for entry in group["entries"]]}
        for group in found["groups"]
    ]
    comparison = ArchitecturesComparison.from_json(found | {"groups": groups}, RESULT)
    return "\n".join(
        [
            "## Three architectures of equal size",
            "",
            f"`finetune compare-architectures` on {where}. {verdict(comparison)}",
            "",
            "```text",
            *screen_table(comparison),
            "```",
            "",
            "Intervals are over test rows, of the mean of the seeds; they say little about other seeds. "
            "Seconds are wall time, on a machine that was busy at times. "
            "Made by [architectures.py](architectures.py).",
        ]
    )


def main() -> None:
    """Measure, then write the section."""
    if sys.argv[1:] != ["--page"]:
        measure(sys.argv[1:])
    few_labels.write_section(PAGE, RESULT.stem, section(read_json(RESULT)))
    say(f"{PAGE}: written")


if __name__ == "__main__":
    sys.exit(few_labels.report_errors(main))
