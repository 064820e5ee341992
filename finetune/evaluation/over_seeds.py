"""The same training with several seeds: the mean of each metric, its spread and its interval."""

import math
from dataclasses import dataclass

import numpy as np

from finetune.evaluation.results import Metric
from finetune.records import Record


@dataclass(frozen=True)
class OverSeeds(Record):
    """A metric of each seed. mean: with Student's interval over the seeds, all on the same test rows."""

    mean: Metric
    spread: float  # standard deviation
    by_seed: list[float]


@dataclass(frozen=True)
class Seeds(Record):
    """Trainings that differ only in their seed, and the metrics that are defined for all of them."""

    seeds: list[int]
    metrics: dict[str, OverSeeds]


def over_seeds(values: list[float], n: int, name: str = "") -> OverSeeds:
    """A metric of at least two seeds on n test rows (Student 1908, Biometrika 6). name: the metric's, for its range."""
    from scipy.stats import t

    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return OverSeeds(Metric.around(mean, half, n, name), spread, values)
