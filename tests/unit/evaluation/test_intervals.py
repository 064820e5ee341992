"""Intervals and the paired test against SciPy."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from finetune.evaluation import intervals
from finetune.evaluation.results import Difference


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (1, 3), (98, 100), (1101, 1115), (7, 300)])
def test_wilson_equals_scipy(successes, n):
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert intervals.wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_no_rows_says_nothing():
    assert intervals.wilson(0, 0) == (0.0, 1.0)


def test_bootstrap_of_a_mean_equals_scipys_percentile_interval():
    values = np.random.default_rng(0).gamma(2.0, size=400)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    low, high = intervals.bootstrap(lambda counts: counts @ values / len(values), len(values), 20_000, seed=2)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.006)


def test_bootstrap_statistics_share_their_resamples():
    values = np.random.default_rng(0).normal(size=50)

    def twice(counts):
        mean = counts @ values / 50
        return np.stack([mean, mean + 3], axis=1)

    low, high = intervals.bootstrap(twice, 50, 200, seed=7)
    assert low[1] - low[0] == pytest.approx(3) and high[1] - high[0] == pytest.approx(3)
    alone = intervals.bootstrap(lambda counts: counts @ values / 50, 50, 200, seed=7)
    assert alone == (low[0], high[0])


def test_bootstrap_does_not_depend_on_its_chunks(monkeypatch):
    values = np.random.default_rng(0).normal(size=30)

    def mean(counts):
        assert (counts.sum(axis=1) == 30).all()
        return counts @ values / 30

    whole = intervals.bootstrap(mean, 30, 150, seed=3)
    monkeypatch.setattr(intervals, "_CHUNK", 100)
    assert intervals.bootstrap(mean, 30, 150, seed=3) == pytest.approx(whole, abs=1e-12)


def test_bootstrap_work_is_bounded_for_many_rows(monkeypatch):
    monkeypatch.setattr(intervals, "_DRAWS", 50_000)
    seen = []

    def statistic(counts):
        seen.append(len(counts))
        return counts[:, 0]

    intervals.bootstrap(statistic, 200, 1000, seed=0)
    assert sum(seen) == 250
    seen.clear()
    intervals.bootstrap(statistic, 40_000, 1000, seed=0)
    assert sum(seen) == 100


def test_bootstrap_passes_over_undefined_resamples():
    def statistic(counts):
        return np.where(counts[:, 0] > 0, 5.0, np.nan)

    assert intervals.bootstrap(statistic, 4, 200, seed=0) == (5.0, 5.0)


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_equals_the_binomial_test_of_the_discordant_rows(seed):
    generator = np.random.default_rng(seed)
    a, b = generator.random(300) < 0.95, generator.random(300) < 0.9
    only_a, only_b = (
        sum(x and not y for x, y in zip(a, b, strict=True)),
        sum(y and not x for x, y in zip(a, b, strict=True)),
    )
    assert intervals.mcnemar(a, b) == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)


def test_mcnemar_of_equal_decisions_is_one():
    assert intervals.mcnemar([True, False], [True, False]) == 1.0


def test_paired_bootstrap_is_near_the_paired_t_test_where_that_holds():
    draw = np.random.default_rng(0)
    base = draw.normal(size=300)
    seen = []
    for shift in (0.0, 0.1, 0.25):
        other = base + draw.normal(size=300) - shift
        found, expected = intervals.paired_bootstrap(base, other, 4000, seed=1), stats.ttest_rel(base, other)
        assert found.value == pytest.approx((base - other).mean()) and found.n == 300
        assert found.p_value == pytest.approx(expected.pvalue, abs=0.03)
        interval = expected.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.02)
        seen.append(found.p_value)
    assert min(seen) < 0.01 and max(seen) > 0.2


def test_paired_bootstrap_of_equal_scores_finds_nothing():
    found = intervals.paired_bootstrap([0, 1, 1], [0, 1, 1], 200, seed=0)
    assert found == Difference(0, 0, 0, 3, p_value=1.0)
    assert intervals.paired_bootstrap([1] * 50, [0] * 50, 200, seed=0).p_value == 1 / 201


def test_paired_bootstrap_of_sums_is_that_of_their_parts():
    draw = np.random.default_rng(0)
    sums, weights = draw.normal(size=(2, 40)), draw.integers(1, 9, 40)
    found = intervals.paired_bootstrap(*sums, 500, 0, weights)
    assert found.value == pytest.approx((sums[0] - sums[1]).sum() / weights.sum())
    twice = intervals.paired_bootstrap(*sums, 500, 0, np.full(40, 2))
    plain = intervals.paired_bootstrap(*sums, 500, 0)
    assert [2 * part for part in (twice.value, twice.low, twice.high)] == pytest.approx(
        [plain.value, plain.low, plain.high]
    )
    assert twice.p_value == plain.p_value


@pytest.mark.parametrize("counts", [(3, 480, 70, 75), (480, 480, 3, 75), (40, 100, 35, 90), (3, 480, 0, 75)])
def test_the_interval_of_a_ratio_equals_statsmodels(counts):
    expected = confint_proportions_2indep(*counts, compare="ratio", method="score", correction=False)
    assert intervals.ratio_interval(*counts) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("a, b", [((0, 10), (10, 10)), ((10, 10), (10, 10)), ((1, 1), (1, 2))])
def test_the_interval_of_a_ratio_is_the_same_for_its_inverse(a, b):
    low, high = intervals.ratio_interval(*a, *b)
    inverse = intervals.ratio_interval(*b, *a)
    assert (low, high) == pytest.approx((1 / inverse[1], 1 / inverse[0] if inverse[0] else np.inf))


def test_a_share_of_none_and_of_all_ends_at_the_edge_exactly():
    assert {intervals.wilson(0, n)[0] for n in range(1, 500)} == {0.0}
    assert {intervals.wilson(n, n)[1] for n in range(1, 500)} == {1.0}


def test_paired_differences_are_a_bootstrap_by_hand():
    scores = np.random.default_rng(0).normal(size=(30, 2))
    generator = np.random.default_rng(5)
    drawn = np.array([scores[generator.integers(30, size=30)].mean(axis=0) for _ in range(60)])
    found = intervals.paired_differences(lambda counts: counts @ scores / 30, 30, 60, seed=5)
    for column, own in enumerate(found):
        mean, values = scores[:, column].mean(), drawn[:, column]
        low, high = np.percentile(values, [2.5, 97.5])
        as_far = (np.abs(values - mean) >= abs(mean)).sum()
        assert (own.value, own.low, own.high, own.p_value) == pytest.approx((mean, low, high, (1 + as_far) / 61))
