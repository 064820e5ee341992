"""The training rows of ``fit``, read from Python values: texts, labels and weights of equal length."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from finetune.errors import InputError, listed
from finetune.tables.in_memory import cells_of, columns_of, is_arrow, label_names, read_labels, read_texts, two_or_more
from finetune.tables.label_matrices import read_label_sets
from finetune.tables.tables import as_cell


@dataclass(frozen=True)
class TrainingRows:
    """The training rows of ``fit``: n texts, each with its class and its weight."""

    texts: list[str]
    columns: list[str] | None  # column names of a frame
    classes: np.ndarray  # (K,), sorted, of the labels' own type
    targets: np.ndarray  # class numbers (n,); with many labels per row, whether it has each (n, K)
    weights: np.ndarray | None  # (n,), positive, with mean 1; None: all equal
    label_form: str | None = None  # with many labels per row: their form in y


def read_training_rows(X: Any, y: Any, sample_weight: Any = None) -> TrainingRows:
    """Texts, labels and weights of equal length; rows of weight 0 are left out. Raises InputError."""
    texts, columns = read_texts(X)
    weights = _read_weights(sample_weight, len(texts))
    sets = read_label_sets(y)
    classes, targets = read_labels(y) if sets is None else (sets.classes, sets.has)
    if len(texts) != len(targets):
        raise InputError("X and y have different lengths", got=f"{len(texts)} texts, {len(targets)} labels")
    if sets is None:
        _refuse_labels_in_texts(X, y, classes, targets)
    if weights is not None and not weights.all():
        kept = np.flatnonzero(weights)
        texts, targets, weights = [texts[row] for row in kept], targets[kept], weights[kept]
        if sets is None:
            left, targets = np.unique(targets, return_inverse=True)
            classes = two_or_more(classes[left])
    shares = None if weights is None else weights / weights.mean()
    return TrainingRows(texts, columns, classes, targets, shares, sets.form if sets else None)


def _read_weights(given: Any, rows: int) -> np.ndarray | None:
    """The weight of each row (n,), read as in scikit-learn: a single number applies to all rows."""
    if given is None:
        return None
    try:
        weights = np.asarray(given.to_pylist() if is_arrow(given, "Array", "ChunkedArray") else given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("sample_weight is not numeric", got=str(error)) from error
    if weights.ndim == 0:
        weights = np.full(rows, weights)
    if weights.shape != (rows,):
        raise InputError("sample_weight needs one number for each text", got=f"shape {weights.shape}, {rows} texts")
    bad = np.flatnonzero(~np.isfinite(weights) | (weights < 0))
    if len(bad):
        raise InputError(
            f"sample_weight of row {bad[0]} is not a weight", got=str(weights[bad[0]]), known="0 or a positive number"
        )
    if not weights.any():
        raise InputError("sample_weight must contain at least one non-zero number", got=f"{rows} zeros")
    return weights


def _refuse_labels_in_texts(X: Any, y: Any, classes: np.ndarray, targets: np.ndarray) -> None:
    """Raise InputError for a frame with y as a column: with equal values, or with y's name and one value for each class."""
    names, columns = columns_of(X)
    known = label_names(classes)
    labels = [known[target] for target in targets]
    for name, column in zip(names or (), columns, strict=False):
        cells = [as_cell(value).strip() for value in cells_of(column)]
        named = isinstance(y, pd.Series) and str(y.name) == name
        if cells == labels or (named and len(set(zip(cells, labels, strict=True))) == len(set(cells)) == len(known)):
            raise InputError(
                f"X contains the labels: its column {name!r} is y and would be read as part of the text",
                got=f"columns {listed(names or [])}",
                do="Pass only the columns of the text, as in X[['text']].",
            )
