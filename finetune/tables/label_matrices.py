"""Many labels per row, passed from Python: lists of labels, or an indicator matrix with a column for each label."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from finetune.errors import InputError, listed
from finetune.evaluation.label_sets import indicators
from finetune.tables.in_memory import is_arrow, label_names
from finetune.tables.label_sets import SEPARATOR

LISTS, MATRIX = "lists", "matrix"  # the form in which labels were passed, and are returned
SETS = (list, tuple, set, frozenset, np.ndarray)


@dataclass(frozen=True)
class LabelSets:
    """Whether each of n rows has each of K labels."""

    classes: np.ndarray  # (K,), sorted for lists; for a matrix, its columns' names or numbers
    has: np.ndarray  # bool (n, K)
    form: str  # LISTS or MATRIX

    @property
    def names(self) -> list[str]:
        """The labels as text."""
        return label_names(self.classes)


def read_label_sets(y: Any, classes: np.ndarray | None = None) -> LabelSets | None:
    """The labels of each row, or None if y has one label per row (or neither form).

    Nested lists of equal length that contain only 0 and 1 are a matrix, as in scikit-learn. classes: those already
    known, in this order. Raises InputError for labels of several types or not in `classes`, and for fewer than two.
    """
    matrix = _as_matrix(y)
    if matrix is not None:
        names, has = matrix
        found = LabelSets(names if classes is None else classes, has, MATRIX)
        if has.shape[1] != len(found.classes):
            raise InputError(
                "y has the wrong number of labels", got=f"shape {has.shape}", known=f"{len(found.classes)}"
            )
    else:
        rows = _as_rows(y)
        if rows is None:
            return None
        known = _labels_of(rows) if classes is None else classes
        strange = {label for own in rows for label in own} - set(known.tolist())
        if strange:
            raise InputError("y has labels that fit has not seen", got=listed(sorted(map(str, strange))))
        texts = label_names(known)
        spelled = dict(zip(known.tolist(), texts, strict=True))
        has = indicators([[spelled[label] for label in own] for own in rows], texts).astype(bool)
        found = LabelSets(known, has, LISTS)
    if len(found.classes) < 2 or not found.has.any():
        raise InputError(
            "y with several labels per row needs at least two different labels", got=listed(found.names) or "none"
        )
    if joined := [name for name in found.names if SEPARATOR in name]:
        raise InputError(
            f"a label contains {SEPARATOR!r}, the separator between the labels of a row", got=listed(joined)
        )
    return found


def _as_matrix(y: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The columns' names and the matrix, for frames, arrays and sparse matrices of 0 and 1; else None."""
    names = np.array(list(map(str, y.columns)), dtype=object) if isinstance(y, pd.DataFrame) else None
    if hasattr(y, "toarray"):
        y = y.toarray()
    try:
        values = np.asarray(y)
    except ValueError:  # rows of unequal lengths
        return None
    if values.ndim != 2 or values.shape[1] < 2 or values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        return None
    return np.arange(values.shape[1]) if names is None else names, values.astype(bool)


def _as_rows(y: Any) -> list[list[Any]] | None:
    """The labels of each row, for lists of lists; else None."""
    if is_arrow(y, "Array", "ChunkedArray"):
        y = y.to_pylist()
    if isinstance(y, str | bytes | dict | pd.DataFrame) or not hasattr(y, "__len__") or getattr(y, "ndim", 1) != 1:
        return None
    rows = list(y)
    nested = [isinstance(own, SETS) for own in rows]
    if not any(nested):
        return None
    if not all(nested):
        raise InputError(
            f"row {nested.index(False)} of y is not a list of labels",
            got=repr(rows[nested.index(False)])[:60],
            do="Pass a list for each row; an empty one for a row without labels.",
        )
    found = [[_tidy(label) for label in own] for own in rows]
    return None if any(isinstance(label, SETS) for own in found for label in own) else found


def _tidy(label: Any) -> Any:
    """A label without surrounding white space; numpy's numbers become Python's."""
    if isinstance(label, np.generic):
        label = label.item()
    return label.strip() if isinstance(label, str) else label


def _labels_of(rows: list[list[Any]]) -> np.ndarray:
    """All labels, sorted. Raises InputError if they are missing or of several types."""
    labels = {label for own in rows for label in own}
    kinds = sorted({type(label).__name__ for label in labels})
    if len(kinds) > 1 or not set(kinds) <= {"str", "int", "bool"} or "" in labels:
        raise InputError("unsupported labels in the lists of y", got=", ".join(kinds), known="text, or whole numbers")
    return np.array(sorted(labels), dtype=object if kinds == ["str"] else None)
