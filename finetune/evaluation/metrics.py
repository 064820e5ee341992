"""Classification metrics as in scikit-learn, each with its 95 % interval and n.

All intervals use one set of bootstrap resamples. A resample is stored as row counts, so that every metric
over all resamples is a matrix product or a cumulative sum.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.calibration import confidence_bins, expected_calibration_error
from finetune.evaluation.intervals import bootstrap, wilson
from finetune.evaluation.results import Difference, Metric, undefined
from finetune.records import Record


@dataclass(frozen=True)
class ClassScores(Record):
    """Precision, recall and F1 of one label, and its number of rows."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


def classification_metrics(
    y: ArrayLike,
    predicted: ArrayLike,
    probabilities: ArrayLike,
    labels: list[str],
    positive: int | None,
    resamples: int,
    seed: int,
) -> dict[str, Metric]:
    """The metrics, named as in scikit-learn.

    `y`, `predicted`: class indices (n,); `probabilities`: (n, k) in the order of `labels`; `positive`: index
    of the positive one of two classes. accuracy, f1_macro, log_loss, ece and brier always; f1, precision,
    recall, roc_auc and average_precision for two classes. f1_macro averages over all `labels`; one that is neither
    present nor predicted counts as 0. An undefined metric has a reason instead of a value: f1_macro and the rankings
    if all rows are of one class, f1 and recall without positive rows, and precision if, in addition, none is predicted
    as positive.
    Accuracy has Wilson's interval, the others a bootstrap interval.
    """
    y, predicted = np.asarray(y, dtype=int), np.asarray(predicted, dtype=int)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    n, k = len(y), len(labels)
    names = ["accuracy", "f1_macro", "log_loss", "ece", "brier"]
    if k == 2:
        names += ["f1", "precision", "recall", "roc_auc", "average_precision"]
    if n == 0:
        return {name: undefined(0, "no rows") for name in names}

    values = _values(y, predicted, probabilities, k, positive)
    intervals = _intervals(y, predicted, probabilities, k, positive, list(values), resamples, seed)
    metrics = {}
    for name in names:
        if name not in values:
            reason = "only one label is known" if k == 1 else f"only one class in the {n} rows: {labels[y[0]]}"
            metrics[name] = undefined(n, reason)
            continue
        value = values[name]
        low, high = intervals[name]
        if name == "ece":  # resampling adds to its upward bias: the interval may exclude the value
            low, high = min(low, value), max(high, value)
        metrics[name] = Metric(value, low, high, n)
    return metrics


def _values(
    y: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, k: int, positive: int | None
) -> dict[str, float]:
    """The metrics defined on these rows."""
    from sklearn import metrics as sk

    classes = np.arange(k)
    values = {"accuracy": sk.accuracy_score(y, predicted), "ece": expected_calibration_error(probabilities, y)}
    if k == 1 or (y != y[0]).any():
        values["f1_macro"] = sk.f1_score(y, predicted, labels=classes, average="macro", zero_division=0)
    if k > 1:
        values["log_loss"] = sk.log_loss(y, probabilities, labels=classes)
    if k > 2:
        values["brier"] = sk.brier_score_loss(y, probabilities, labels=classes)
    if k == 2:
        truth, score = y == positive, probabilities[:, positive]
        values["brier"] = sk.brier_score_loss(truth, score, labels=[False, True])
        decided = {"labels": [False, True], "pos_label": True, "zero_division": 0}
        if truth.any():
            values["f1"] = sk.f1_score(truth, predicted == positive, **decided)
            values["recall"] = sk.recall_score(truth, predicted == positive, **decided)
        if truth.any() or (predicted == positive).any():
            values["precision"] = sk.precision_score(truth, predicted == positive, **decided)
        if truth.any() and not truth.all():
            values["roc_auc"] = sk.roc_auc_score(truth, score)
            values["average_precision"] = sk.average_precision_score(truth, score)
    return {name: float(value) for name, value in values.items()}


def _intervals(
    y: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    k: int,
    positive: int | None,
    names: list[str],
    resamples: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Name -> (low, high) for each of `names`."""
    from scipy.sparse import csr_array

    n, rows = len(y), np.arange(len(y))
    decisions = DecisionCounts(y, predicted, k)
    tiny = np.finfo(np.float64).eps
    row_loss = -np.log(np.clip(probabilities[rows, y], tiny, 1 - tiny))
    onehot_error = probabilities.copy()
    onehot_error[rows, y] -= 1
    row_brier = (onehot_error**2).sum(axis=1) / (2 if k == 2 else 1)  # scikit-learn halves it for two
    confidence, bins = confidence_bins(probabilities)
    gap = (probabilities.argmax(axis=1) == y) - confidence
    bin_gaps = csr_array((gap, (bins, rows)), shape=(bins.max() + 1, n))
    ranking = _Ranking(y == positive, probabilities[:, positive]) if "roc_auc" in names else None

    def statistic(counts: np.ndarray) -> np.ndarray:  # (R, n) -> (R, names)
        found = {
            **decisions.scores(counts, positive),
            "log_loss": counts @ row_loss / n,
            "brier": counts @ row_brier / n,
            "ece": np.abs(bin_gaps @ counts.T).sum(axis=0) / n,
        }
        if ranking:
            found["roc_auc"], found["average_precision"] = ranking.areas(counts)
        return np.stack([found[name] for name in names], axis=1)

    low, high = bootstrap(statistic, n, resamples, seed)
    intervals = {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}
    intervals["accuracy"] = wilson(int((y == predicted).sum()), n)
    return intervals


class DecisionCounts:
    """Precision, recall, F1 and accuracy of resamples, from actual, predicted and true positive rows of each
    class."""

    def __init__(self, y: np.ndarray, predicted: np.ndarray, k: int):
        from scipy.sparse import csr_array

        rows, n, right = np.arange(len(y)), len(y), y == predicted
        self.truth = csr_array((np.ones(n), (y, rows)), shape=(k, n))
        self.called = csr_array((np.ones(n), (predicted, rows)), shape=(k, n))
        self.right = csr_array((np.ones(right.sum()), (y[right], rows[right])), shape=(k, n))

    def scores(self, counts: np.ndarray, positive: int | None) -> dict[str, np.ndarray]:
        """Name -> (R,) of resamples `counts` (R, n); undefined ratios are 0, as with zero_division=0.

        f1_macro leaves out the labels that a resample misses by chance: as zeros, they would pull the interval of rare
        labels below the value itself.
        """
        truth, called, right = (part @ counts.T for part in (self.truth, self.called, self.right))  # (k, R)
        f1 = _ratio(2 * right, truth + called)
        missing = (self.truth.sum(axis=1) + self.called.sum(axis=1) == 0)[:, None]  # (k, 1), from all rows
        averaged = (truth + called > 0) | missing
        scores = {"accuracy": right.sum(axis=0) / counts.shape[1], "f1_macro": f1.sum(axis=0) / averaged.sum(axis=0)}
        if len(f1) == 2:
            scores.update(
                f1=f1[positive], precision=_ratio(right, called)[positive], recall=_ratio(right, truth)[positive]
            )
        return scores


class _Ranking:
    """Areas under the ROC and precision-recall curves of resamples, ties as in scikit-learn."""

    def __init__(self, truth: np.ndarray, score: np.ndarray):
        self.order = np.argsort(-score, kind="stable")
        self.truth = truth[self.order].astype(float)
        self.last = np.append(np.nonzero(np.diff(score[self.order]))[0], len(score) - 1)

    def areas(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ROC AUC and average precision, each (R,); NaN if a resample has only one class."""
        ranked = counts[:, self.order]
        hits = np.cumsum(ranked * self.truth, axis=1)[:, self.last]  # true positives at each threshold
        called = np.cumsum(ranked, axis=1)[:, self.last]
        misses = called - hits  # false positives
        positives, negatives = hits[:, -1:], misses[:, -1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = np.pad(hits / positives, ((0, 0), (1, 0)))
            fall_out = np.pad(misses / negatives, ((0, 0), (1, 0)))
            roc = np.trapezoid(recall, fall_out, axis=1)
            average = (np.diff(recall, axis=1) * _ratio(hits, called)).sum(axis=1)
        one_class = ((positives == 0) | (negatives == 0))[:, 0]
        return np.where(one_class, np.nan, roc), np.where(one_class, np.nan, average)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def paired_difference(
    metric: str,
    y: ArrayLike,
    predicted_a: ArrayLike,
    predicted_b: ArrayLike,
    k: int,
    positive: int | None,
    resamples: int,
    seed: int,
) -> Difference:
    """`metric` of decisions a minus that of b on the same rows, with a paired bootstrap interval.

    `metric` depends on decisions only: accuracy, f1_macro, f1, precision, recall.
    """
    y = np.asarray(y, dtype=int)
    n = len(y)
    if n == 0:
        return Difference(None, None, None, 0, metric=metric, reason="no rows")
    parts = [DecisionCounts(y, np.asarray(predicted, dtype=int), k) for predicted in (predicted_a, predicted_b)]

    def statistic(counts: np.ndarray) -> np.ndarray:  # (R, n) -> (R,)
        of_a, of_b = (part.scores(counts, positive)[metric] for part in parts)
        return of_a - of_b

    value = float(statistic(np.ones((1, n)))[0])
    low, high = bootstrap(statistic, n, resamples, seed)
    return Difference(value, low, high, n, metric=metric)


def per_class(y: np.ndarray, predicted: np.ndarray, labels: list[str]) -> list[ClassScores]:
    """Precision, recall, F1 and rows of each label; undefined ratios are 0."""
    from sklearn.metrics import precision_recall_fscore_support

    if len(y) == 0:  # scikit-learn raises for zero rows
        return [ClassScores(label, 0.0, 0.0, 0.0, 0) for label in labels]
    columns = precision_recall_fscore_support(y, predicted, labels=np.arange(len(labels)), zero_division=0)
    return [
        ClassScores(label, float(precision), float(recall), float(f1), int(support))
        for label, precision, recall, f1, support in zip(labels, *columns, strict=True)
    ]
