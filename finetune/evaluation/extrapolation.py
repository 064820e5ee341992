"""Extrapolate a learning curve: the error of a model falls as a power of the number of training rows.

Hestness et al. 2017 (arXiv:1712.00409): error = scale * rows ** -rate, a straight line in logarithms, fitted by least squares
to the errors of several trainings.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from finetune.records import Record


@dataclass(frozen=True)
class ExpectedError(Record):
    """The expected error rate of one training on this many rows, with its 95 % prediction interval."""

    rows: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PowerLaw(Record):
    """A fitted curve. rate: how fast the error falls, with its 95 % interval; above 0 it falls."""

    rate: float
    rate_low: float
    rate_high: float
    offset: float  # logarithm of the error at the mean logarithm of the rows
    centre: float  # that mean
    spread: float  # sum of squares of the logarithms of the rows around it
    noise: float  # standard deviation of the logarithm of an error around the curve
    trainings: int

    def at(self, rows: int) -> ExpectedError:
        """The error of a training on this many rows."""
        from scipy.stats import t

        x = np.log(rows) - self.centre
        middle = self.offset - self.rate * x
        half = t.ppf(0.975, self.trainings - 2) * self.noise * np.sqrt(1 + 1 / self.trainings + x * x / self.spread)
        value, low, high = np.exp([middle, middle - half, middle + half])
        return ExpectedError(rows, float(value), float(low), float(min(high, 1.0)))


def fit_power_law(rows: ArrayLike, errors: ArrayLike, n: int) -> PowerLaw | None:
    """Fit the error rates (m,) of trainings on `rows` (m,) training rows, all measured on the same n test rows.

    Half an error is added to each, so that a training without errors has a logarithm. Returns None for fewer than three
    different numbers of rows or fewer than four trainings, which are too few to estimate the noise.
    """
    from scipy.stats import t

    x, share = np.log(np.asarray(rows, dtype=float)), np.asarray(errors, dtype=float)
    if len(np.unique(x)) < 3 or len(x) < 4:
        return None
    y = np.log((share * n + 0.5) / (n + 1))
    centre = float(x.mean())
    spread = float(((x - centre) ** 2).sum())
    slope = float(((x - centre) * y).sum()) / spread
    offset = float(y.mean())
    residual = y - offset - slope * (x - centre)
    noise = float(np.sqrt((residual**2).sum() / (len(x) - 2)))
    half = float(t.ppf(0.975, len(x) - 2)) * noise / np.sqrt(spread)
    return PowerLaw(-slope, -slope - half, -slope + half, offset, centre, spread, noise, len(x))
