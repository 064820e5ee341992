"""Pairs of classifiers and means over seeds, against statsmodels and by simulation."""

import numpy as np
import pytest
from scipy.stats import permutation_test
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from finetune.evaluation.compare_runs import compare_pairs, sign_flips
from finetune.evaluation.folds import mean_over_folds
from finetune.evaluation.over_seeds import over_seeds


def test_pairs_are_tested_as_statsmodels_does():
    generator = np.random.default_rng(0)
    right = {name: generator.random(300) < share for name, share in (("a", 0.95), ("b", 0.9), ("c", 0.8))}
    pairs = compare_pairs(right)
    assert [(pair.one, pair.other) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    p_values = []
    for pair in pairs:
        one, other = right[pair.one], right[pair.other]
        table = [[(one & other).sum(), (one & ~other).sum()], [(~one & other).sum(), (~one & ~other).sum()]]
        p_values.append(mcnemar(table, exact=True).pvalue)
        assert (pair.only_one, pair.only_other) == (table[0][1], table[1][0])
        assert pair.difference.value == pytest.approx(one.mean() - other.mean())
    assert [pair.p_value for pair in pairs] == pytest.approx(p_values)
    assert [pair.corrected for pair in pairs] == pytest.approx(multipletests(p_values, method="holm")[1])
    assert pairs[1].differs


def test_scores_that_are_no_shares_are_permuted_as_scipy_does():
    generator = np.random.default_rng(5)
    one = generator.normal(40, 10, 120)
    other = one + generator.normal(1.5, 8, 120)
    found = permutation_test(
        (one, other),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        rng=1,
    )
    assert sign_flips(one, other) == pytest.approx(found.pvalue, abs=0.012)
    assert sign_flips(one, one) == 1.0 and sign_flips(one, one + 5) < 0.001
    [pair] = compare_pairs({"a": one, "b": one + 5}, share=False)
    assert pair.differs and pair.difference.value == pytest.approx(-5) and pair.only_other == 120


def test_equal_writers_seldom_differ():
    generator, alarms = np.random.default_rng(6), 0
    for _ in range(200):
        one = generator.gamma(2, 10, 60)
        alarms += sign_flips(one, one + generator.laplace(0, 5, 60)) < 0.05
    assert alarms / 200 <= 0.09


def test_equal_classifiers_seldom_differ():
    generator, alarms = np.random.default_rng(1), 0
    for _ in range(300):
        pairs = compare_pairs({str(i): generator.random(150) < 0.85 for i in range(4)})
        alarms += any(pair.differs for pair in pairs)
    assert alarms / 300 <= 0.05


def test_the_interval_over_seeds_is_students():
    values = [0.95, 0.96, 0.93, 0.97]
    found = over_seeds(values, 200)
    assert (found.mean.low, found.mean.high) == pytest.approx(DescrStatsW(values).tconfint_mean())
    assert found.mean.value == pytest.approx(np.mean(values)) and found.by_seed == values and found.mean.n == 200
    assert found.spread == pytest.approx(DescrStatsW(values, ddof=1).std)


@pytest.mark.parametrize("name, least, most", [("", None, None), ("accuracy", 0, 1), ("log_loss", 0, None)])
def test_an_interval_ends_where_the_metric_does(name, least, most):
    values = [0.1, 0.9, 0.5]  # Student's interval: -0.49 to 1.49
    for found in (over_seeds(values, 20, name).mean, mean_over_folds(values, 20, name)):
        assert found.low == least if least is not None else found.low < -0.4
        assert found.high == most if most is not None else found.high > 1.4


def test_the_interval_over_seeds_covers():
    generator = np.random.default_rng(2)
    found = [over_seeds(generator.normal(0.9, 0.02, 5).tolist(), 100).mean for _ in range(2000)]
    assert 0.93 <= np.mean([own.low <= 0.9 <= own.high for own in found]) <= 0.97
