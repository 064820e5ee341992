"""Cross-validation: assign rows to folds, and compute intervals of means over folds with overlapping training rows."""

import math
import warnings

import numpy as np
from numpy.typing import ArrayLike

from finetune.errors import DataError, listed
from finetune.evaluation.results import Difference, Metric


def assign_folds(labels: list[str], groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The fold (n,) of each row, 0 to count - 1: stratified by label, with all rows of a group in one fold.

    groups: (n,) a number for each group. scikit-learn's StratifiedGroupKFold. Raises DataError if there are fewer
    groups than folds, or if a label would be missing from the training rows of a fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    different = len(np.unique(groups))
    if different < count:
        raise DataError(
            f"{count} folds need at least {count} groups of rows, as rows with the same text or group stay together",
            got=f"{different} in {len(labels):,} rows",
            do="Take fewer folds: --folds K.",
        )
    folds = np.empty(len(labels), dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a label with fewer rows than folds, which is checked below
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        for fold, (_, test) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
            folds[test] = fold
    label = np.array(labels)
    alone = sorted(own for own in set(labels) if len(set(folds[label == own])) == 1)
    if alone:
        raise DataError(
            "if all rows of a label are in one fold, that fold's model cannot learn it",
            got=listed(alone),
            do="Add rows of these labels, or leave the labels out.",
        )
    return folds


def mean_over_folds(values: ArrayLike, n: int, name: str = "") -> Metric:
    """The mean of the folds' values (K,) with its 95 % interval, corrected for the overlap of the training rows.

    Nadeau and Bengio 2003 (Machine Learning 52, equation 9): the variance of the mean is (1/K + test/train) s^2, with
    test/train = 1/(K - 1) rows, and Student's t with K - 1 degrees of freedom. n: rows that were predicted.
    name: the metric's, for its range.
    """
    mean, half, _ = _corrected(values)
    return Metric.around(mean, half, n, name)


def difference_over_folds(one: ArrayLike, other: ArrayLike, n: int) -> Difference:
    """The mean difference of two models' values (K,) on the same folds, with the p value of the corrected t test."""
    difference = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    mean, half, p_value = _corrected(difference)
    return Difference(mean, mean - half, mean + half, n, p_value=p_value)


def _corrected(values: ArrayLike) -> tuple[float, float, float]:
    """The mean, half the width of its interval, and the p value of a mean of 0."""
    from scipy.stats import t

    values = np.asarray(values, dtype=float)
    k, mean = len(values), float(np.mean(values))
    error = math.sqrt((1 / k + 1 / (k - 1)) * float(np.var(values, ddof=1)))
    p_value = float(2 * t.sf(abs(mean) / error, k - 1)) if error else float(mean == 0)
    return mean, float(t.ppf(0.975, k - 1)) * error, p_value
