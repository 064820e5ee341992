"""Folds that keep groups whole, and the interval of a mean over folds that share training rows."""

import statistics

import numpy as np
import pytest
from scipy import stats

from finetune.errors import DataError
from finetune.evaluation.folds import assign_folds, difference_over_folds, mean_over_folds

VALUES = [0.81, 0.9, 0.74, 0.86, 0.79]


def test_every_row_has_a_fold_with_the_labels_shares_and_whole_groups():
    random = np.random.default_rng(5)
    groups = random.integers(0, 60, 300)
    labels = np.where(random.random(300) < 0.3, "spam", "ham").tolist()
    folds = assign_folds(labels, groups, 5, seed=1)
    assert sorted(set(folds.tolist())) == [0, 1, 2, 3, 4] and len(folds) == 300
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups.tolist()))
    shares = [np.mean(np.array(labels)[folds == fold] == "spam") for fold in range(5)]
    assert max(shares) - min(shares) < 0.1
    assert not np.array_equal(folds, assign_folds(labels, groups, 5, seed=2))


def test_too_few_groups_and_a_label_in_one_group_are_refused():
    with pytest.raises(DataError, match="3 folds need at least 3 groups .* got 2 in 8 rows"):
        assign_folds(["a", "b"] * 4, np.array([0, 1] * 4), 3, seed=1)
    with pytest.raises(DataError, match="that fold's model cannot learn it; got rare"):
        assign_folds(["a", "b"] * 6 + ["rare"] * 2, np.array([*range(12), 12, 12]), 3, seed=1)


def test_the_interval_has_the_corrected_variance():
    scale = ((1 / 5 + 1 / 4) * statistics.variance(VALUES)) ** 0.5  # Nadeau and Bengio 2003, equation 9
    found = mean_over_folds(VALUES, 100)
    assert (found.low, found.high) == pytest.approx(
        stats.t.interval(0.95, df=4, loc=statistics.mean(VALUES), scale=scale)
    )
    assert found.value == pytest.approx(statistics.mean(VALUES)) and found.n == 100
    plain = stats.ttest_1samp(VALUES, 0).confidence_interval()
    assert found.high - found.low > 1.4 * (plain.high - plain.low), "wider than if the folds were independent"


def test_the_difference_is_tested_with_the_same_variance():
    other = [0.8, 0.82, 0.75, 0.8, 0.78]
    found = difference_over_folds(VALUES, other, 100)
    differences = [a - b for a, b in zip(VALUES, other, strict=True)]
    t = statistics.mean(differences) / ((1 / 5 + 1 / 4) * statistics.variance(differences)) ** 0.5
    assert found.p() == pytest.approx(2 * stats.t.sf(t, 4))
    assert (found.low < 0) == (found.p() > 0.05)
    assert difference_over_folds(VALUES, VALUES, 100).p() == 1.0


def test_intervals_cover_the_truth_where_the_folds_are_correlated():
    """Folds that share half of their noise: the plain t interval covers far too seldom, the corrected one nearly 95 %."""
    random = np.random.default_rng(0)
    draws, k = 2000, 10
    values = random.normal(size=(draws, k)) + random.normal(scale=(1 / 9) ** 0.5 * 1.0, size=(draws, 1))
    corrected = np.mean([(m := mean_over_folds(row, 1)).low <= 0 <= m.high for row in values])
    plain = np.mean([stats.ttest_1samp(row, 0).pvalue > 0.05 for row in values])
    assert 0.93 < corrected < 0.97 and plain < 0.9
