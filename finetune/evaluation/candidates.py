"""Compare several classifiers, each trained with several seeds, on the same test rows, with paired tests."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.intervals import bootstrap, holm, paired_bootstrap, wilson
from finetune.evaluation.metrics import DecisionCounts
from finetune.evaluation.results import Difference, Metric


@dataclass(frozen=True)
class AgainstReference:
    """Each metric minus the reference's on the same rows, with the Holm-corrected p value."""

    metrics: dict[str, Difference]
    p_value: float


@dataclass(frozen=True)
class Candidate:
    """The metrics of one candidate: mean over seeds, per seed, and difference from the reference."""

    metrics: dict[str, Metric]
    by_seed: list[dict[str, float]]
    difference: AgainstReference | None  # None for the reference itself


def compare_candidates(
    y: np.ndarray,
    decisions: dict[str, np.ndarray],
    k: int,
    positive: int | None,
    reference: str,
    resamples: int,
    seed: int,
) -> dict[str, Candidate]:
    """Accuracy and F1 of each candidate, and its difference from the reference on the same rows.

    y: classes (n,). decisions: name -> predicted classes (S, n), one row per seed; S may differ between candidates.
    Values are means over seeds. The bootstrap interval (Wilson's for an accuracy that no resample changes) reflects
    variation over test rows; `by_seed` shows variation over seeds. The p value is from ``paired_bootstrap`` on
    accuracy, with Holm's correction over the candidates. F1 is that of the positive class, or macro F1 if there is
    none.
    """
    y, n = np.asarray(y, dtype=int), len(y)
    metric = "f1_macro" if positive is None else "f1"
    parts = {
        name: [DecisionCounts(y, np.asarray(row, dtype=int), k) for row in rows] for name, rows in decisions.items()
    }

    def scores(counts: np.ndarray) -> np.ndarray:
        """(R, 2 * candidates): the accuracies, then the F1s."""
        found = [[part.scores(counts, positive) for part in own] for own in parts.values()]
        return np.stack(
            [np.mean([score[name] for score in own], axis=0) for name in ("accuracy", metric) for own in found], axis=1
        )

    at = list(parts).index(reference)

    def with_differences(counts: np.ndarray) -> np.ndarray:
        """(R, 3 * candidates): and F1 minus the reference's."""
        found = scores(counts)
        f1 = found[:, len(parts) :]
        return np.concatenate([found, f1 - f1[:, at : at + 1]], axis=1)

    everything = np.ones((1, n))
    values = with_differences(everything)[0]
    low, high = bootstrap(with_differences, n, resamples, seed)
    right = {name: (np.asarray(rows) == y).mean(axis=0) for name, rows in decisions.items()}
    others = [name for name in parts if name != reference]
    tests = {name: paired_bootstrap(right[name], right[reference], resamples, seed) for name in others}
    adjusted = dict(zip(others, holm([tests[name].p() for name in others]), strict=True))

    def own_metric(column: int) -> Metric:
        if low[column] == high[column] and column < len(parts):  # all resamples agree: Wilson's interval has a width
            return Metric(float(values[column]), *wilson(round(values[column] * n), n), n)
        return Metric(float(values[column]), float(low[column]), float(high[column]), n)

    found = {}
    for i, (name, own) in enumerate(parts.items()):
        by_seed = [
            {key: float(part.scores(everything, positive)[key][0]) for key in ("accuracy", metric)} for part in own
        ]
        difference, column = None, 2 * len(parts) + i
        if name != reference:
            f1 = Difference(float(values[column]), float(low[column]), float(high[column]), n)
            difference = AgainstReference({"accuracy": tests[name], metric: f1}, adjusted[name])
        metrics = {"accuracy": own_metric(i), metric: own_metric(len(parts) + i)}
        found[name] = Candidate(metrics, by_seed, difference)
    return found


def _weighted(own: np.ndarray, parts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean over rows weighted by counts (R, n) -> (R,)."""
    return counts @ own / (counts @ parts)


def compare_rows(
    scores: dict[str, np.ndarray],
    metric: str,
    reference: str,
    resamples: int,
    seed: int,
    weights: ArrayLike | None = None,
) -> dict[str, Candidate]:
    """The mean score of each candidate under the name `metric`, and its difference from the reference on the same rows.

    scores: name -> (S, n), one row per seed. weights: (n,), as in ``paired_bootstrap``. Intervals, tests and Holm's
    correction are as in ``compare_candidates``.
    """
    means = {name: np.asarray(own, dtype=float).mean(axis=0) for name, own in scores.items()}
    n = len(means[reference])
    parts = np.ones(n) if weights is None else np.asarray(weights, dtype=float)
    others = [name for name in means if name != reference]
    tests = {name: paired_bootstrap(means[name], means[reference], resamples, seed, parts) for name in others}
    adjusted = dict(zip(others, holm([tests[name].p() for name in others]), strict=True))
    found = {}
    for name, own in means.items():
        value = float(own.sum() / parts.sum())
        low, high = bootstrap(partial(_weighted, own, parts), n, resamples, seed)
        if low == high and weights is None:  # a proportion that no resample changes
            low, high = wilson(round(value * n), n)
        found[name] = Candidate(
            {metric: Metric(value, low, high, n)},
            [{metric: float(np.sum(row) / parts.sum())} for row in scores[name]],
            None if name == reference else AgainstReference({metric: tests[name]}, adjusted[name]),
        )
    return found
