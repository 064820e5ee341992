"""The finished trainings of the stage ``architectures``, each a line of trainings.jsonl."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from finetune.comparisons.results import Basis
from finetune.records import Record


@dataclass(frozen=True, kw_only=True)
class NamedBasis(Basis):
    """The first fields of a line."""

    threads: str
    key: str  # the training's name and seed


@dataclass(frozen=True, kw_only=True)
class Scored(Record):
    """A model's scores on the test rows."""

    scores: list[int] | list[float]  # of each row: predicted class, correct (0 or 1), or nats
    examples: list[tuple[str, str, str]] = field(default_factory=list)  # source, reference and output
    parts: list[int] = field(default_factory=list)  # for scores in nats: masked tokens or bytes of each row
    said: str  # the score in words


@dataclass(frozen=True, kw_only=True)
class FinishedTraining(Scored, NamedBasis):
    """A line of trainings.jsonl: what the training depends on, its results and its costs."""

    parameters: int
    state_bytes: int  # weights and optimizer
    lr: float
    precision: str
    curve: list[tuple[int, float]]  # step and validation loss
    seconds: float
    steps: int
    tokens: int
    best_step: int
    peak_bytes: int


def read_finished(path: Path, basis: Basis) -> dict[str, FinishedTraining]:
    """Finished trainings by key: complete lines from the same recipe, data, weights and machine.

    Skips a line that is not JSON, which a crash may leave. Raises RunError for a line with other fields.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    found = {}
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        entry = FinishedTraining.from_json(
            value, f"{path}, line {number}", do="Delete this line to repeat its training."
        )
        if entry.same(basis):
            found[entry.key] = entry
    return found


def append_finished(path: Path, entry: FinishedTraining) -> None:
    """Append a line; if a crash left an incomplete line, begin a new one first."""
    with open(path, "ab+") as file:
        file.seek(max(file.tell() - 1, 0))
        ended = file.read(1) in (b"", b"\n")
        file.write((b"" if ended else b"\n") + json.dumps(entry.to_json(), allow_nan=False).encode() + b"\n")
