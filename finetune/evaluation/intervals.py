"""95 % confidence intervals, and paired tests of two classifiers or two scores."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.results import Difference

_Z = 1.959963984540054  # the normal quantile of 97.5 %
_DRAWS = 100_000_000  # rows x resamples in total, about ten seconds
_FEWEST = 100  # minimum number of resamples
_CHUNK = 4_000_000  # rows x resamples held in memory at once

Statistic = Callable[[np.ndarray], np.ndarray]  # of counts (R, n): (R,), or (R, M)


def wilson(successes: int, n: int, z: float = _Z) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22); (0, 1) if n is 0.

    z: the normal quantile of the two-sided level.
    """
    if n == 0:
        return 0.0, 1.0
    share, square = successes / n, z * z
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def ratio_interval(events_a: int, n_a: int, events_b: int, n_b: int) -> tuple[float, float]:
    """The score interval of the ratio of two proportions, a to b, of independent rows (Koopman 1984, Biometrics 40).

    The high end is infinite if there are no events in b. `n_a` and `n_b` are positive, and so is one of the events.
    """
    from scipy.optimize import brentq

    def distance(log_ratio: float) -> float:
        """The signed score statistic; it falls from above 0 to below at the observed ratio."""
        ratio = math.exp(log_ratio)
        u, v = ratio * (n_a + events_b), events_a + n_b
        root = math.hypot(u - v, 2 * math.sqrt(ratio * (n_a - events_a) * (n_b - events_b)))
        b = min(2 * (events_a + events_b) / (u + v + root), 1.0)  # the most likely proportion of b under this ratio
        a = min(b * ratio, 1.0)
        variance = a * (1 - a) / n_a + ratio * ratio * b * (1 - b) / n_b
        gap = events_a / n_a - ratio * events_b / n_b
        return gap / math.sqrt(variance) if variance > 0 else 0.0

    far = 60.0  # bound of the logarithm of a ratio of counts
    low = 0.0 if events_a == 0 else math.exp(brentq(lambda at: distance(at) - _Z, -far, far))
    high = math.inf if events_b == 0 else math.exp(brentq(lambda at: distance(at) + _Z, -far, far))
    return low, high


def bootstrap(statistic: Statistic, n: int, resamples: int, seed: int) -> tuple[Any, Any]:
    """The percentile interval of a statistic of n rows (Efron 1979, Ann. Stat. 7).

    `statistic` takes the count of each row in each resample, (R, n) float64, and returns (R,) values,
    or (R, M) for M statistics of the same resamples (paired); NaN where undefined.
    Returns (low, high): floats, or arrays (M,). Above 100 million draws, fewer resamples are drawn, but at
    least 100; with that many rows the interval is narrow anyway. The same seed gives the same resamples.
    """
    values = _resampled(statistic, n, resamples, seed)
    columns = values.reshape(len(values), -1)
    low, high = np.full((2, columns.shape[1]), np.nan)
    for index, column in enumerate(columns.T):
        defined = column[~np.isnan(column)]
        if len(defined):
            low[index], high[index] = np.percentile(defined, [2.5, 97.5])
    if values.ndim == 1:
        return float(low[0]), float(high[0])
    return low, high


def _resampled(statistic: Statistic, n: int, resamples: int, seed: int) -> np.ndarray:
    """The statistic of each resample."""
    resamples = max(min(resamples, _DRAWS // n), min(resamples, _FEWEST))
    generator = np.random.default_rng(seed)
    size = max(1, _CHUNK // n)
    values = []
    for start in range(0, resamples, size):
        counts = np.empty((min(size, resamples - start), n))
        for row in counts:
            row[:] = np.bincount(generator.integers(n, size=n), minlength=n)
        values.append(np.asarray(statistic(counts), dtype=float))
    return np.concatenate(values)


def paired_bootstrap(
    scores_a: ArrayLike, scores_b: ArrayLike, resamples: int, seed: int, weights: ArrayLike | None = None
) -> Difference:
    """The difference of the means of a and b on the same rows, with its p value.

    weights: (n,), if each score is a sum over this many parts and the mean is taken over all parts.
    """
    difference = np.asarray(scores_a, dtype=float) - np.asarray(scores_b, dtype=float)
    weights = np.ones(len(difference)) if weights is None else np.asarray(weights, dtype=float)
    return paired_differences(
        lambda counts: (counts @ difference / (counts @ weights))[:, None], len(difference), resamples, seed
    )[0]


def paired_differences(statistic: Statistic, n: int, resamples: int, seed: int) -> list[Difference]:
    """M differences on the same n rows, each with its p value.

    `statistic` takes counts (R, n) as in ``bootstrap`` and returns (R, M) differences, none of them NaN.
    The two-sided p is how often a resampled difference is as far from the observed one as that is from 0
    (Berg-Kirkpatrick et al. 2012, EMNLP, section 3), with one added above and below so that it is never 0.
    """
    observed, values = statistic(np.ones((1, n)))[0], _resampled(statistic, n, resamples, seed)
    lows, highs = np.percentile(values, [2.5, 97.5], axis=0)
    as_far = (np.abs(values - observed) >= np.abs(observed) - 1e-12).sum(axis=0)
    return [
        Difference(float(value), float(low), float(high), n, p_value=(1 + int(far)) / (1 + len(values)))
        for value, low, high, far in zip(observed, lows, highs, as_far, strict=True)
    ]


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """McNemar's exact test: the two-sided p value that two classifiers have equal error rates on the same rows.

    McNemar 1947, Psychometrika 12, with the binomial distribution over rows where only one is right.
    `correct_a`, `correct_b`: bool (n,). Returns 1.0 if both are right on the same rows.
    """
    from scipy.stats import binomtest

    correct_a, correct_b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Holm-corrected p values of a family of tests, which control the family-wise error rate.

    Holm 1979, Scand. J. Stat. 6: the smallest of m is multiplied by m, the next by m - 1, and so on; the results are
    made monotone and capped at 1.
    """
    m, corrected, largest = len(p_values), [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(m), key=p_values.__getitem__)):
        largest = corrected[i] = max(largest, min(1.0, (m - rank) * p_values[i]))
    return corrected
