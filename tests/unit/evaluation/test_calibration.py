"""Calibration and decisions against SciPy, scikit-learn and brute force."""

import numpy as np
import pytest
from scipy.special import softmax as scipy_softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score

from finetune.evaluation import calibration


def drawn(n, k, temperature, seed=0):
    """Logits that are `temperature` times too large for the labels drawn from them."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, k)) * 1.5
    y = np.array([generator.choice(k, p=row) for row in scipy_softmax(logits, axis=1)])
    return logits * temperature, y


def test_softmax_equals_scipy_at_any_size_of_logits():
    logits = np.random.default_rng(0).normal(size=(5, 3)) * 800
    assert calibration.softmax(logits, 2.0) == pytest.approx(scipy_softmax(logits / 2, axis=1))


@pytest.mark.parametrize("k", [2, 6])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_recovers_the_one_the_labels_were_drawn_with(k, temperature):
    logits, y = drawn(20_000, k, temperature)
    assert calibration.fit_temperature(logits, y) == pytest.approx(temperature, rel=0.06)


def test_temperature_is_one_where_it_is_undefined():
    right = np.array([[4.0, -4.0], [-4.0, 4.0]])
    assert calibration.fit_temperature(right, [0, 1]) == 1.0
    assert calibration.fit_temperature(np.zeros((0, 2)), []) == 1.0
    assert calibration.fit_temperature(np.zeros((6, 2)), [0, 1, 0, 1, 1, 1]) == 1.0
    assert calibration.fit_temperature(np.zeros((3, 1)), [0, 0, 0]) == 1.0


def test_reliability_bins_equal_scikit_learns_calibration_curve():
    logits, y = drawn(3000, 4, 2.0)
    p = scipy_softmax(logits, axis=1)
    share, mean = calibration_curve(p.argmax(axis=1) == y, p.max(axis=1), n_bins=15)
    rows = calibration.reliability_bins(p, y)
    assert [row.accuracy for row in rows] == pytest.approx(list(share))
    assert [row.confidence for row in rows] == pytest.approx(list(mean))
    assert sum(row.n for row in rows) == 3000
    assert calibration.expected_calibration_error(p, y) == pytest.approx(
        sum(row.n * abs(a - b) for row, a, b in zip(rows, share, mean, strict=True)) / 3000
    )


def test_certain_rows_fall_into_the_last_bin():
    rows = calibration.reliability_bins(np.array([[1.0, 0.0], [0.5, 0.5]]), [0, 0])
    assert [(row.low, row.high) for row in rows][-1] == pytest.approx((14 / 15, 1.0))
    assert calibration.expected_calibration_error(np.array([[1.0, 0.0]]), [1]) == 1.0


def test_a_row_of_weight_2_counts_as_two_rows():
    logits, y = drawn(60, 2, 2.0)
    weights = np.random.default_rng(1).integers(0, 4, 60)
    twice = np.repeat(np.arange(60), weights)
    p = calibration.softmax(logits)[:, 1]
    for of in (
        lambda rows, *w: calibration.fit_temperature(logits[rows], y[rows], *w),
        lambda rows, *w: calibration.choose_threshold(y[rows], p[rows], *w),
    ):
        kept = weights > 0
        assert of(kept, weights[kept]) == pytest.approx(of(twice), rel=1e-6) != of(kept)


@pytest.mark.parametrize("seed", range(6))
def test_threshold_has_the_best_f1_of_all_thresholds(seed):
    generator = np.random.default_rng(seed)
    y = generator.random(60) < 0.3
    p = np.clip(0.3 * y + generator.random(60) * 0.7, 0, 1).round(2)
    best = max(f1_score(y, p >= threshold, zero_division=0) for threshold in np.unique(p))
    threshold = calibration.choose_threshold(y, p)
    assert f1_score(y, p >= threshold) == pytest.approx(best)


def test_threshold_is_midway_and_near_one_half():
    assert calibration.choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) == pytest.approx(0.5)
    assert calibration.choose_threshold([0, 1], [0.9, 0.95]) == pytest.approx(0.925)


def test_threshold_keeps_neighbours_apart_that_have_no_number_between_them():
    above = np.nextafter(0.6, 1)
    threshold = calibration.choose_threshold([0, 1, 1], [0.6, above, 0.9])
    assert 0.6 < threshold <= above


@pytest.mark.parametrize(("y", "p"), [([], []), ([1, 1], [0.2, 0.3]), ([0, 0], [0.2, 0.3])])
def test_threshold_is_one_half_if_undefined(y, p):
    assert calibration.choose_threshold(y, p) == 0.5


def test_decide_takes_the_threshold_for_two_classes_only():
    p = np.array([[0.5, 0.5], [0.7, 0.3], [0.69, 0.31]])
    assert calibration.decide(p, 1, 0.31).tolist() == [1, 0, 1]
    assert calibration.decide(p, 0, 0.7).tolist() == [1, 0, 1]
    assert calibration.decide(p, 1, None).tolist() == [0, 0, 0]
    assert calibration.decide(np.array([[0.2, 0.5, 0.3]]), None, None).tolist() == [1]


def test_logits_that_are_not_finite_have_no_temperature():
    logits, y = drawn(50, 2, 3.0)
    assert calibration.fit_temperature(logits, y) != 1.0
    for value in (np.nan, np.inf, -np.inf):
        logits[7, 1 - y[7]] = value
        assert calibration.fit_temperature(logits, y) == 1.0
