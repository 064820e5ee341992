"""Calibration of probabilities, and decision thresholds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from finetune.records import Record

_BINS = 15  # as in Guo et al. 2017
_COLDEST, _HOTTEST = 0.02, 20.0


@dataclass(frozen=True)
class ReliabilityBin(Record):
    """Rows whose highest probability is between `low` and `high`: mean confidence and accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def softmax(logits: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """Probabilities (n, k) float64 of logits (n, k) divided by `temperature`."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def fit_temperature(logits: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The temperature with the lowest log loss: Guo et al. 2017, arXiv:1706.04599, section 4.2.

    `logits` (n, k), true classes `y` (n,) and weights (n,) of the validation rows, never of the test rows. Returns 1.0
    if undefined: no rows, fewer than two classes, or all rows right, so that the optimum is at temperature 0.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    logits, y = np.asarray(logits, dtype=np.float64), np.asarray(y)
    weight = None if weights is None else np.asarray(weights, dtype=np.float64)
    if len(y) == 0 or logits.shape[1] < 2 or not np.isfinite(logits).all():
        return 1.0
    own = logits[np.arange(len(y)), y]
    if (own >= logits.max(axis=1)).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(np.average(logsumexp(logits * inverse, axis=1) - own * inverse, weights=weight))

    found = minimize_scalar(
        loss, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def confidence_bins(probabilities: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The highest probability of each row (n,) and the index of its bin of equal width (n,)."""
    confidence = np.asarray(probabilities, dtype=np.float64).max(axis=1)
    bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)  # (low, high], as in the paper
    return confidence, bins


def reliability_bins(probabilities: ArrayLike, y: ArrayLike) -> list[ReliabilityBin]:
    """The reliability diagram: confidence and accuracy of the most probable class, one row per non-empty bin."""
    confidence, bins = confidence_bins(probabilities)
    correct = np.asarray(probabilities).argmax(axis=1) == np.asarray(y)
    rows = []
    for index in np.unique(bins):
        inside = bins == index
        rows.append(
            ReliabilityBin(
                float(index / _BINS),
                float((index + 1) / _BINS),
                int(inside.sum()),
                float(confidence[inside].mean()),
                float(correct[inside].mean()),
            )
        )
    return rows


def expected_calibration_error(probabilities: ArrayLike, y: ArrayLike) -> float:
    """Expected calibration error: |confidence - accuracy| over bins, weighted by rows (Guo et al. 2017, eq. 3)."""
    rows = reliability_bins(probabilities, y)
    total = sum(row.n for row in rows)
    return float(sum(row.n * abs(row.accuracy - row.confidence) for row in rows) / total)


def choose_threshold(y_binary: ArrayLike, p: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The threshold on `p` (n,) with the highest F1 for the positive rows of `y_binary` (n,), each with its weight.

    It is midway between two adjacent probabilities; ties go to the threshold nearest to 0.5.
    Returns 0.5 if undefined: no rows, or rows of one class only.
    """
    y_binary, p = np.asarray(y_binary).astype(bool), np.asarray(p, dtype=np.float64)
    if y_binary.all() or not y_binary.any() or not np.isfinite(p).all():
        return 0.5
    order = np.argsort(-p, kind="stable")
    ranked = p[order]
    last = np.append(np.nonzero(np.diff(ranked))[0], len(p) - 1)  # the last row of each group of equal p
    weight = np.ones(len(p)) if weights is None else np.asarray(weights, dtype=np.float64)
    true_positives, predicted = (np.cumsum(part[order])[last] for part in (weight * y_binary, weight))
    f1 = 2 * true_positives / (predicted + (weight * y_binary).sum())
    above, below = ranked[last], np.append(ranked[last][1:], 0.0)
    middle = (above + below) / 2
    thresholds = np.where(middle > below, middle, above)  # adjacent floats have no midpoint
    best = thresholds[f1 >= f1.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])


def decide(
    probabilities: ArrayLike, positive: int | None, threshold: float | None, costs: list[list[float]] | None = None
) -> np.ndarray:
    """The predicted class (n,) of each row of `probabilities` (n, k).

    With costs, of each true (rows) and predicted class (columns): the class of the least expected cost. With two classes
    and a threshold: `positive` if its probability is at least the threshold. Otherwise the most probable class.
    """
    probabilities = np.asarray(probabilities)
    if costs is not None:
        return (probabilities @ np.asarray(costs)).argmin(axis=1)
    if threshold is None or probabilities.shape[1] != 2:
        return probabilities.argmax(axis=1)
    assert positive is not None, "a threshold needs a positive class"
    return np.where(probabilities[:, positive] >= threshold, positive, 1 - positive)
