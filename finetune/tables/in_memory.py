"""Texts and labels passed from Python: lists, arrays, pandas, Arrow and Hugging Face datasets."""

import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from finetune.errors import InputError, counted, listed
from finetune.tables.readers import join_cells
from finetune.tables.tables import as_cell

FORMS = "a list or array of texts, a pandas Series or DataFrame, an Arrow column or table, a datasets column or Dataset"


def read_texts(data: Any, empty: bool = False) -> tuple[list[str], list[str] | None]:
    """The texts (n,) and the column names, if any. Several columns are joined with newlines, as for a file.

    empty: whether a row may have no text. Raises InputError if `data` does not contain texts.
    """
    names, columns = columns_of(data)
    cells = [cells_of(column) for column in columns]
    known = [value for column in cells for value in column if value is not None]
    if known and not any(isinstance(value, str | bytes) for value in known):
        raise InputError("these values are not texts", got=f"{type(known[0]).__name__} {known[0]!r}"[:80], known=FORMS)
    texts = [join_cells(list(map(as_cell, row)), list(range(len(row)))) for row in zip(*cells, strict=True)]
    if not texts:
        raise InputError("there are no texts", got=f"{type(data).__name__} of length 0", known=FORMS)
    blank = [] if empty else [row for row, text in enumerate(texts) if not text.strip()]
    if blank:
        raise InputError(
            f"text {blank[0]} is empty",
            got=f"{len(blank)} of {len(texts)} without text",
            do="Leave out rows without text.",
        )
    return texts, names


def cells_of(column: pd.Series) -> list:
    """A column's values, with None for missing ones."""
    return column.astype(object).where(column.notna(), None).tolist()


def columns_of(data: Any) -> tuple[list[str] | None, list[pd.Series]]:
    """Every column of the data, and the column names, if any."""
    if isinstance(data, pd.DataFrame):
        return list(map(str, data.columns)), [data.iloc[:, place] for place in range(data.shape[1])]
    if is_arrow(data, "Table", "RecordBatch"):
        return data.column_names, [pd.Series(column.to_pylist(), dtype=object) for column in data.columns]
    if is_arrow(data, "Array", "ChunkedArray"):
        data = data.to_pylist()
    if is_dataset(data):
        return data.column_names, [pd.Series(list(data[name]), dtype=object) for name in data.column_names]
    if isinstance(data, pd.Series):
        return None, [data]
    if hasattr(data, "toarray"):
        raise InputError("a sparse matrix cannot hold texts", got=type(data).__name__, known=FORMS)
    if isinstance(data, str | bytes | dict) or not hasattr(data, "__len__") or getattr(data, "shape", None) == ():
        raise InputError(
            "a single value instead of a collection of texts",
            got=type(data).__name__,
            known=FORMS,
            do="Pass a single text as a list of one text.",
        )
    rows = list(data)
    if not any(isinstance(row, list | tuple | np.ndarray) for row in rows):
        return None, [pd.Series(rows, dtype=object)]
    widths = {
        row.shape if isinstance(row, np.ndarray) else (len(row),) if isinstance(row, list | tuple) else ()
        for row in rows
    }
    if len(widths) > 1 or len(next(iter(widths))) > 1:
        raise InputError("rows of different shapes", got=listed(sorted(map(str, widths))), known=FORMS)
    return None, [pd.Series(list(column), dtype=object) for column in zip(*rows, strict=True)]


def is_dataset(data: object, kind: str = "Dataset") -> bool:
    """Whether `data` is an instance of this class of `datasets`; never imports that library itself."""
    module = sys.modules.get("datasets")
    return module is not None and isinstance(data, getattr(module, kind))


def is_arrow(data: object, *kinds: str) -> bool:
    """Whether `data` is an instance of one of these classes of pyarrow; never imports that library itself."""
    module = sys.modules.get("pyarrow")
    return module is not None and isinstance(data, tuple(getattr(module, kind) for kind in kinds))


def read_labels(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """The classes (K,), sorted and of the labels' type, and each row's class number (n,).

    Text labels are read as in a table: without surrounding white space, and an empty one is missing.
    Raises InputError if labels are missing, of mixed types or all the same, and scikit-learn's ValueError if `y` is
    not a column of classes.
    """
    if y is None:
        raise InputError("fit requires y to be passed, but the target y is None")
    if isinstance(y, pd.Series):
        y = y.to_numpy()
    if is_arrow(y, "Array", "ChunkedArray"):
        y = y.to_pylist()
    if not hasattr(y, "dtype"):  # numpy would turn a list of strings and numbers into strings
        y = list(np.asarray(y) if hasattr(y, "__array__") else y)
        y = np.asarray(y, dtype=object) if any(isinstance(value, str) for value in y) else np.asarray(y)
    labels = tidy_labels(column_or_1d(y, warn=True))
    missing = np.flatnonzero(pd.isna(labels))
    if len(missing):
        raise InputError(
            "Input y contains NaN",
            got=f"{counted(len(missing), 'missing label')}, the first in row {missing[0]}",
            do="Leave out rows without a label.",
        )
    if labels.dtype == object:
        kinds = sorted({type(value).__name__ for value in labels})
        if kinds != ["str"]:
            labels = np.array(labels.tolist())
        if len(kinds) > 1:
            raise InputError(
                "labels of several types", got=", ".join(kinds), do="Convert them all to text, for example."
            )
    if labels.dtype.kind not in "biufUO":
        raise InputError("unsupported label type", got=str(labels.dtype), known="text, numbers, booleans")
    if labels.dtype.kind == "f":
        assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    classes, targets = np.unique(labels, return_inverse=True)
    return two_or_more(classes), targets


def tidy_labels(labels: np.ndarray) -> np.ndarray:
    """Labels (n,) with text as in a table: without surrounding white space, and None for an empty one."""
    if labels.dtype.kind not in "UO":
        return labels
    values = labels.tolist()
    tidy = [(as_cell(value).strip() or None) if isinstance(value, str) else value for value in values]
    missing = any(value is None for value in tidy)
    changed = [row for row, value in enumerate(values) if isinstance(value, str) and tidy[row] not in (value, None)]
    if changed:
        names = listed(sorted({repr(values[row]) for row in changed}))
        warnings.warn(
            f"white space around {counted(len(changed), 'label')} is ignored, the first in row {changed[0]}: {names}. Strip y "
            "before you pass it to scikit-learn's own scorers, which would count these rows as wrong",
            DataConversionWarning,
            stacklevel=2,
        )
    if not changed and not missing:
        return labels
    return np.fromiter(tidy, dtype=object, count=len(tidy)).astype(object if missing else labels.dtype)


def two_or_more(classes: np.ndarray) -> np.ndarray:
    """The classes. Raises InputError for fewer than two."""
    if len(classes) < 2:
        raise InputError(
            "fit needs at least two classes", got=f"one class, {classes.tolist()[0]!r}" if len(classes) else "no labels"
        )
    return classes


def label_names(classes: np.ndarray) -> list[str]:
    """Each class as text: strings unchanged, numbers and booleans as in JSON."""
    return [as_cell(label) for label in classes.tolist()]
