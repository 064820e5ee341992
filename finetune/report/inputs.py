"""The contents of a page besides the evaluation: the training log, the most confident errors, attention maps."""

import csv
import heapq
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import RunError, shorten
from finetune.records import Record
from finetune.tables.cells import unescape_formula

VALIDATION = ("log_loss", "accuracy", "f1_macro", "bits_per_byte")  # metrics in a line of train.jsonl
_ERRORS = 30
_TEXT_LIMIT = 300  # characters of a text in the list of errors
_LOG_POINTS = 600  # points of a training curve; longer logs are averaged


@dataclass(frozen=True)
class ValidationPoint:
    """One validation during training, with its finite metrics."""

    step: int
    epoch: float | None
    best: bool
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrainingLog:
    """The curves of train.jsonl: the loss and the learning rate over the steps, and the validations."""

    steps: list[float]
    losses: list[float]
    rate_steps: list[float]
    rates: list[float]
    validation: list[ValidationPoint]


@dataclass(frozen=True)
class ErrorRow:
    """A test row whose prediction is wrong."""

    row: str
    text: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Errors:
    """The number of test rows and of wrong predictions, and the most confident wrong predictions."""

    total: int
    wrong: int
    rows: list[ErrorRow]


@dataclass(frozen=True)
class AttentionMap(Record):
    """Attention of each target token (rows of `weights`) to each source token (columns)."""

    source_tokens: list[str]
    target_tokens: list[str]
    weights: list[list[float]]


def read_errors(path: Path, limit: int = _ERRORS) -> Errors | None:
    """The errors in predictions.csv: the `limit` ones with the highest probability.

    Memory use does not depend on the size of the file. Returns None if there is no file.
    """
    if not path.is_file():
        return None
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    total = wrong = 0
    kept: list = []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, strict=True):
                total += 1
                if row["label"] == row["predicted"]:
                    continue
                wrong += 1
                found = ErrorRow(
                    row["row"],
                    shorten(unescape_formula(row["text"]), _TEXT_LIMIT),
                    unescape_formula(row["label"]),
                    unescape_formula(row["predicted"]),
                    float(row["probability"]),
                )
                heapq.heappush(kept, (found.probability, -total, found))
                if len(kept) > limit:
                    heapq.heappop(kept)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunError(f"cannot read {path}", got=f"{type(error).__name__}: {error}") from error
    return Errors(total, wrong, [row for *_, row in sorted(kept, reverse=True)])


def read_training_log(path: Path) -> TrainingLog:
    """The curves of train.jsonl; empty if there is no such file.

    Incomplete lines of a killed run are skipped. If a step was logged twice, its later line counts.
    """
    steps, rates, points = {}, {}, {}
    if path.is_file():
        with open(path, encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    line = json.loads(text)
                    step = int(line["step"])
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue
                if "validation" in line:
                    points[step] = _validation_point(step, line)
                else:
                    if (loss := _number(line.get("loss"))) is not None:
                        steps[step] = loss
                    if (rate := _number(line.get("lr"))) is not None:
                        rates[step] = rate
    return TrainingLog(
        *_thin(sorted(steps.items())), *_thin(sorted(rates.items())), [points[step] for step in sorted(points)]
    )


def _validation_point(step: int, line: dict) -> ValidationPoint:
    values = line["validation"] if isinstance(line["validation"], dict) else {}
    metrics = {name: _number(values.get(name)) for name in VALIDATION}
    return ValidationPoint(
        step,
        _number(line.get("epoch")),
        bool(line.get("best")),
        {name: value for name, value in metrics.items() if value is not None},
    )


def _number(value: object) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _thin(pairs: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """Steps and values; if there are too many to draw, averages over equal numbers of steps."""
    width = -(-len(pairs) // _LOG_POINTS) or 1
    stretches = [pairs[start : start + width] for start in range(0, len(pairs), width)]
    return (
        [sum(step for step, _ in stretch) / len(stretch) for stretch in stretches],
        [sum(value for _, value in stretch) / len(stretch) for stretch in stretches],
    )
