"""Multi-label metrics as in scikit-learn, each with its 95 % interval and n.

Truth and decisions are indicator matrices (n, K): whether a row has a label. As in metrics.py, all intervals use one
set of bootstrap resamples of the rows, stored as row counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.calibration import choose_threshold
from finetune.evaluation.intervals import bootstrap, wilson
from finetune.evaluation.results import Difference, Metric, undefined
from finetune.records import Record

METRICS = ("f1_micro", "f1_macro", "subset_accuracy", "precision_micro", "recall_micro", "hamming_loss", "log_loss")
FEW = 5  # validation rows of a label, from which it has its own threshold


@dataclass(frozen=True)
class LabelScores(Record):
    """Precision, recall and F1 of one label, or None if undefined, and its numbers of actual and predicted rows."""

    label: str
    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    predicted: int


def indicators(labels_of_rows: Sequence[Sequence[str]], labels: Sequence[str]) -> np.ndarray:
    """Whether each row has each label: float32 (n, K)."""
    number = {label: i for i, label in enumerate(labels)}
    found = np.zeros((len(labels_of_rows), len(labels)), dtype=np.float32)
    for row, own in enumerate(labels_of_rows):
        found[row, [number[label] for label in own]] = 1
    return found


def sigmoid(logits: ArrayLike) -> np.ndarray:
    """Probabilities (n, K) float64, one for each label, of logits (n, K)."""
    from scipy.special import expit

    found: np.ndarray = expit(np.asarray(logits, dtype=np.float64))
    return found


def choose_thresholds(
    truth: ArrayLike, probabilities: ArrayLike, rule: str, weights: ArrayLike | None = None
) -> np.ndarray:
    """The threshold (K,) of each label: 0.5 under the rule `half`, else that of the best F1 on these weighted rows.

    Labels with fewer than FEW rows share the threshold of their best micro F1: one of their own would overfit these
    rows (Yang 2001, "A study of thresholding strategies for text categorization", SIGIR).
    """
    truth, probabilities = np.asarray(truth, dtype=bool), np.asarray(probabilities)
    if rule == "half":
        return np.full(truth.shape[1], 0.5)
    found = np.array([choose_threshold(own, p, weights) for own, p in zip(truth.T, probabilities.T, strict=True)])
    few = truth.sum(axis=0) < FEW
    if few.any():
        every = None if weights is None else np.repeat(np.asarray(weights), few.sum())
        found[few] = choose_threshold(truth[:, few].ravel(), probabilities[:, few].ravel(), every)
    return found


def set_probability(probabilities: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """The probability (n,) of each row's decided set of labels, assuming independent labels."""
    found: np.ndarray = np.where(decided, probabilities, 1 - probabilities).prod(axis=1)
    return found


class LabelSetCounts:
    """Metrics of resamples, from the actual, predicted and true positive rows of each label."""

    def __init__(self, truth: ArrayLike, predicted: ArrayLike):
        truth, predicted = np.asarray(truth, dtype=bool), np.asarray(predicted, dtype=bool)
        self.truth, self.called = truth.astype(float), predicted.astype(float)
        self.right = (truth & predicted).astype(float)
        self.exact = (truth == predicted).all(axis=1).astype(float)
        self.wrong = (truth != predicted).mean(axis=1)

    def scores(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Name -> (R,) of resamples `counts` (R, n); undefined ratios are 0, as with zero_division=0."""
        truth, called, right = (counts @ part for part in (self.truth, self.called, self.right))  # (R, K)
        rows = counts.sum(axis=1)
        all_truth, all_called, all_right = (part.sum(axis=1) for part in (truth, called, right))
        return {
            "f1_micro": _ratio(2 * all_right, all_truth + all_called),
            "f1_macro": _ratio(2 * right, truth + called).mean(axis=1),
            "subset_accuracy": counts @ self.exact / rows,
            "precision_micro": _ratio(all_right, all_called),
            "recall_micro": _ratio(all_right, all_truth),
            "hamming_loss": counts @ self.wrong / rows,
        }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def label_set_metrics(
    truth: ArrayLike, predicted: ArrayLike, probabilities: ArrayLike, resamples: int, seed: int
) -> dict[str, Metric]:
    """METRICS of decisions (n, K) and probabilities (n, K).

    f1_macro averages over all labels; one that is neither present nor predicted counts as 0, as with scikit-learn's
    zero_division=0. log_loss is the mean over rows and labels. subset_accuracy has Wilson's interval, the others a
    bootstrap interval.
    """
    truth, predicted = np.asarray(truth, dtype=bool), np.asarray(predicted, dtype=bool)
    n = len(truth)
    if n == 0:
        return {name: undefined(0, "no rows") for name in METRICS}
    counts_of = LabelSetCounts(truth, predicted)
    tiny = np.finfo(np.float64).eps
    right = np.where(truth, probabilities, 1 - np.asarray(probabilities, dtype=np.float64))
    row_loss = -np.log(np.clip(right, tiny, 1)).mean(axis=1)

    def statistic(counts: np.ndarray) -> np.ndarray:  # (R, n) -> (R, METRICS)
        found = counts_of.scores(counts) | {"log_loss": counts @ row_loss / n}
        return np.stack([found[name] for name in METRICS], axis=1)

    values = statistic(np.ones((1, n)))[0]
    low, high = bootstrap(statistic, n, resamples, seed)
    metrics = {
        name: Metric(float(value), float(low[i]), float(high[i]), n)
        for i, (name, value) in enumerate(zip(METRICS, values, strict=True))
    }
    exact = metrics["subset_accuracy"].known_value()
    return metrics | {"subset_accuracy": Metric(exact, *wilson(round(exact * n), n), n)}


def label_set_difference(
    metric: str, truth: ArrayLike, predicted_a: ArrayLike, predicted_b: ArrayLike, resamples: int, seed: int
) -> Difference:
    """`metric` of decisions a minus that of b on the same rows, with a paired bootstrap interval."""
    n = len(np.asarray(truth))
    if n == 0:
        return Difference(None, None, None, 0, metric=metric, reason="no rows")
    parts = [LabelSetCounts(truth, predicted) for predicted in (predicted_a, predicted_b)]

    def statistic(counts: np.ndarray) -> np.ndarray:  # (R, n) -> (R,)
        of_a, of_b = (part.scores(counts)[metric] for part in parts)
        return of_a - of_b

    value = float(statistic(np.ones((1, n)))[0])
    low, high = bootstrap(statistic, n, resamples, seed)
    return Difference(value, low, high, n, metric=metric)


def per_label(truth: np.ndarray, predicted: np.ndarray, labels: list[str], thresholds: np.ndarray) -> list[LabelScores]:
    """Precision, recall, F1 and rows of each label."""
    truth, predicted = np.asarray(truth, dtype=bool), np.asarray(predicted, dtype=bool)
    found = []
    for at, label in enumerate(labels):
        support, called = int(truth[:, at].sum()), int(predicted[:, at].sum())
        right = int((truth[:, at] & predicted[:, at]).sum())
        found.append(
            LabelScores(
                label,
                float(thresholds[at]),
                right / called if called else None,
                right / support if support else None,
                2 * right / (support + called) if support + called else None,
                support,
                called,
            )
        )
    return found
