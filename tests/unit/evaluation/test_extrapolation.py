"""The extrapolation of learning curves: against statsmodels' formulas by scipy and numpy, and by simulation."""

import numpy as np
import pytest
from scipy.stats import linregress, t

from finetune.evaluation.extrapolation import fit_power_law

ROWS = np.array([400, 400, 400, 1000, 1000, 1000, 2000, 2000, 4000])


def test_the_rate_is_that_of_a_regression_in_logarithms():
    errors = np.array([0.081, 0.09, 0.075, 0.05, 0.056, 0.061, 0.041, 0.038, 0.031])
    law = fit_power_law(ROWS, errors, 1000)
    line = linregress(np.log(ROWS), np.log((errors * 1000 + 0.5) / 1001))
    half = t.ppf(0.975, len(ROWS) - 2) * line.stderr
    assert (law.rate, law.rate_low, law.rate_high) == pytest.approx(
        (-line.slope, -line.slope - half, -line.slope + half)
    )
    found = law.at(8000)
    middle = line.intercept + line.slope * np.log(8000)
    design = np.column_stack([np.ones(len(ROWS)), np.log(ROWS)])
    new = np.array([1, np.log(8000)])
    residual = np.log((errors * 1000 + 0.5) / 1001) - design @ [line.intercept, line.slope]
    variance = (residual**2).sum() / (len(ROWS) - 2) * (1 + new @ np.linalg.inv(design.T @ design) @ new)
    width = t.ppf(0.975, len(ROWS) - 2) * np.sqrt(variance)
    assert (found.value, found.low, found.high) == pytest.approx(
        tuple(np.exp([middle, middle - width, middle + width]))
    )
    assert found.rows == 8000 and law.trainings == 9


def test_95_percent_intervals_hold_the_next_training_and_the_rate():
    draw, inside, rates = np.random.default_rng(0), 0, 0
    for _ in range(1000):
        true = 2.0 * ROWS**-0.5
        law = fit_power_law(ROWS, true * np.exp(0.1 * draw.normal(size=len(ROWS))), 10**9)
        next_error = 2.0 * 8000**-0.5 * np.exp(0.1 * draw.normal())
        found = law.at(8000)
        inside += found.low <= next_error <= found.high
        rates += law.rate_low <= 0.5 <= law.rate_high
    assert 930 <= inside <= 970 and 930 <= rates <= 970


def test_too_few_trainings_have_no_curve_and_no_errors_have_one():
    assert fit_power_law([100, 100, 200, 200], [0.2, 0.2, 0.1, 0.1], 50) is None
    assert fit_power_law([100, 200, 400], [0.2, 0.15, 0.1], 50) is None
    law = fit_power_law([100, 200, 400, 400], [0.1, 0.0, 0.0, 0.0], 50)
    assert law is not None and law.at(800).value > 0 and law.at(1).high == 1.0
