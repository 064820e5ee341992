"""The finished trainings of the stage ``architectures``, each a line of trainings.jsonl."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from finetune.comparisons.results import Basis
from finetune.records import Record


@dataclass(frozen=True, kw_only=True)
class NamedBasis(Basis):
    """What a line begins with."""

    threads: str
    key: str  # the training's name and its seed


@dataclass(frozen=True, kw_only=True)
class Scored(Record):
    """How a model does on the test rows."""

    scores: list[int] | list[float]  # of each row: the predicted class, whether a number is right, or nats
    examples: list[tuple[str, str, str]] = field(default_factory=list)  # source, reference and what was written
    parts: list[int] = field(default_factory=list)  # of each row that is scored in nats: its masked tokens, or bytes
    said: str  # the score in words


@dataclass(frozen=True, kw_only=True)
class FinishedTraining(Scored, NamedBasis):
    """A line of trainings.jsonl: what the training depends on, what it gives and what it took."""

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

    A line that is no JSON, as a crash leaves it, is passed over. RunError for one of another shape.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    found = {}
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        entry = FinishedTraining.from_json(
            value, f"{path}, line {number}", do="Delete this line, and its training is done again."
        )
        if entry.same(basis):
            found[entry.key] = entry
    return found


def append_finished(path: Path, entry: FinishedTraining) -> None:
    """Append a line, after ending one that a crash left incomplete."""
    with open(path, "ab+") as file:
        file.seek(max(file.tell() - 1, 0))
        ended = file.read(1) in (b"", b"\n")
        file.write((b"" if ended else b"\n") + json.dumps(entry.to_json(), allow_nan=False).encode() + b"\n")
