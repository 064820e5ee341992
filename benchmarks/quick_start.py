"""Record the output of README's quick start without a network, on one thread.

    python benchmarks/quick_start.py

Trains spam-classifier from mini on the bundled sample (two minutes) and classifies three messages. Writes
quick_start.json: the table at the end of the run, and the answers. A test compares README and docs/start.md with it.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import instruction_set, processor_name

from finetune.files import write_json

HERE = Path(__file__).resolve().parent
RUN = ["run", "spam-classifier", "--set", "weights=mini", "--set", "data=spam-sample", "--set", "train.threads=1"]
MESSAGES = [
    "see you at six",
    "Congratulations, you have won a free phone! Call 0900 123 456 to claim your prize",
    "You have won a prize, call now",
]


def main() -> None:
    """Run the quick start, and record its output."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}

    def lines(*words: str) -> list[str]:
        command = [sys.executable, "-m", "finetune", *words]
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return [line.rstrip() for line in done.stdout.splitlines()]

    with tempfile.TemporaryDirectory() as folder:
        printed = lines(*RUN)
        start = next(i for i, line in enumerate(printed) if line.startswith("test rows: "))
        answers = lines("predict", "runs/spam-classifier", *MESSAGES)
    found = {
        "machine": f"{processor_name()} ({instruction_set()})",
        "table": printed[start : start + 5],
        "answers": answers,
    }
    write_json(HERE / "quick_start.json", found)


if __name__ == "__main__":
    main()
