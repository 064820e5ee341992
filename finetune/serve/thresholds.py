"""The effect of other thresholds on the test rows of a run, from its predictions.csv."""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.errors import RunError
from finetune.tables.cells import unescape_formula
from finetune.tables.label_sets import labels_in

STEPS = 200  # thresholds between 0 and 1


@dataclass(frozen=True)
class Tested:
    """The test rows: which labels each has, bool (n, K), and the probability of each, (n, K)."""

    labels: list[str]
    true: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Curve:
    """Counts of test rows at each threshold, for one label. said: rows with at least this probability."""

    label: str
    rows: int
    positives: int
    thresholds: list[float]
    said: list[int]
    right: list[int]


def read_tested(path: Path, labels: list[str], several: bool) -> Tested | None:
    """The test rows in predictions.csv; None if there is no file. Raises RunError for another file."""
    if not path.is_file():
        return None
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    true, probabilities = [], []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, strict=True):
                label = unescape_formula(row["label"])
                own = labels_in(label) if several else [label]
                true.append([name in own for name in labels])
                probabilities.append([float(row[f"p_{name}"]) for name in labels])
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunError(f"cannot read {path}", got=f"{type(error).__name__}: {error}") from error
    return Tested(labels, np.array(true, dtype=bool), np.array(probabilities)) if true else None


def curve(tested: Tested, label: str) -> Curve:
    """The counts for a label; precision is right / said, recall is right / positives."""
    at = tested.labels.index(label)
    true, p = tested.true[:, at], tested.probabilities[:, at]
    thresholds = np.arange(STEPS + 1) / STEPS
    above = p[None] >= thresholds[:, None]  # (thresholds, n)
    return Curve(
        label,
        len(p),
        int(true.sum()),
        thresholds.tolist(),
        above.sum(axis=1).tolist(),
        (above & true).sum(axis=1).tolist(),
    )
