"""Decisions for an aim: against scikit-learn, scipy and statsmodels, and whether promises and intervals hold."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

from finetune.evaluation import aims
from finetune.evaluation.results import Metric

AIMS = ("half", "max-f1", "recall-at-fpr:0.05", "precision:0.9", "abstain:0.04")


def draw(generator, n, share=0.3, gap=2.0):
    """Classes (n,) and calibrated probabilities (n, 2): normal scores of two classes `gap` apart."""
    y = (generator.random(n) < share).astype(int)
    score = generator.normal(gap * y)
    odds = share / (1 - share) * np.exp(gap * score - gap * gap / 2)
    p = odds / (1 + odds)
    return y, np.column_stack([1 - p, p])


@pytest.mark.parametrize(("events", "n"), [(0, 20), (3, 20), (20, 20), (1, 1), (7, 1115)])
def test_the_bound_is_the_exact_binomial_one(events, n):
    found = float(aims.upper_bound(events, n))
    assert found == pytest.approx(
        stats.binomtest(events, n, alternative="less").proportion_ci(0.9, "exact").high, abs=1e-12
    )
    assert found == pytest.approx(proportion_confint(events, n, alpha=0.2, method="beta")[1], abs=1e-12)


def test_so_many_rows_without_an_error_are_just_enough():
    for share in (0.5, 0.9, 0.95, 0.99):
        n = aims.needed_rows(share)
        assert 1 - aims.upper_bound(0, n) >= share > 1 - aims.upper_bound(0, n - 1)


@pytest.mark.parametrize(("mean", "n"), [(0.0, 40), (0.1, 200), (0.5, 30)])
def test_the_bound_of_a_mean_is_hoeffdings(mean, n):
    found = aims.mean_bound(mean, n)
    divergence = stats.entropy([mean, 1 - mean], [found, 1 - found])
    assert n * divergence == pytest.approx(np.log(10)) and found > mean
    assert aims.mean_bound(1.0, n) == 1.0


def test_elkans_threshold_costs_least():
    costs = [[0.0, 10.0], [1.0, 0.0]]
    y, p = draw(np.random.default_rng(0), 20_000)
    rule = aims.choose_rule("cost", costs, y, p, 1)
    assert rule.threshold == pytest.approx(10 / 11)
    assert (rule.predict(p, 1) == (p @ np.array(costs)).argmin(axis=1)).all()
    paid = {
        at: np.array(costs)[y, (p[:, 1] >= at).astype(int)].mean()
        for at in (*np.linspace(0.05, 0.99, 40), rule.threshold)
    }
    assert paid[rule.threshold] <= min(paid.values()) * 1.03


def test_the_costs_of_three_labels_decide_by_the_least_expected():
    costs = [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [9.0, 9.0, 0.0]]
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.88, 0.02]])
    rule = aims.choose_rule("cost", costs, [0, 1], p, None)
    assert rule.predict(p, None).tolist() == [2, 1] and rule.threshold is None


@pytest.mark.parametrize("seed", range(5))
def test_the_cut_has_the_highest_recall_of_all_that_meet_the_aim(seed):
    y, p = draw(np.random.default_rng(seed), 800, gap=3.0)
    truth, score = y == 1, p[:, 1]
    for aim in ("precision:0.9", "recall-at-fpr:0.05"):
        rule = aims.choose_rule(aim, None, y, p, 1)
        best = 0.0
        for at in np.unique(score):
            called = score >= at
            errors, rows = ((called & ~truth).sum(), called.sum() if aim.startswith("precision") else (~truth).sum())
            bound = stats.binomtest(int(errors), int(rows), alternative="less").proportion_ci(0.9, "exact").high
            if bound <= (0.1 if aim.startswith("precision") else 0.05):
                best = max(best, sk.recall_score(truth, called))
        assert rule.sure and sk.recall_score(truth, score >= rule.threshold) == pytest.approx(best)


def test_few_rows_reach_the_aim_without_being_sure_of_it_or_not_at_all():
    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    found = aims.choose_rule("precision:0.95", None, y, np.column_stack([1 - p, p]), 1)
    assert found.reached and not found.sure and found.threshold == pytest.approx(0.5)
    found = aims.choose_rule("precision:0.95", None, 1 - y, np.column_stack([1 - p, p]), 1)
    assert not found.reached and found.threshold < 0.1
    promised = aims.promise("precision:0.95", y, y, np.ones(4, dtype=bool), 1, None)
    assert promised.needed == 45 and promised.n == 2 and not promised.holds


def test_one_half_is_reached_for_sure_and_no_aim_is_without_rows():
    p = np.array([[0.4, 0.6]])
    found = aims.choose_rule("half", None, [1], p, 1)
    assert found.threshold == 0.5 and found.reached and found.sure
    found = aims.choose_rule("precision:0.95", None, [], p[:0], 1)
    assert found.threshold == 0.5 and not found.reached and not found.sure


def test_it_abstains_on_the_least_confident_rows():
    y, p = draw(np.random.default_rng(1), 3000)
    rule = aims.choose_rule("abstain:0.04", None, y, p, 1)
    predicted = rule.predict(p, 1)
    decided = rule.decided(p, predicted)
    assert (predicted == p.argmax(axis=1)).all()
    assert p.max(axis=1)[decided].min() >= rule.abstain_below > p.max(axis=1)[~decided].max()
    found = aims.outcome(y, predicted, decided, 1, None)
    assert found["coverage"].value == decided.mean()
    assert 1 - found["accuracy"].value < 0.04 < (predicted != y).mean()


def test_an_outcome_is_scikit_learns():
    y, p = draw(np.random.default_rng(2), 400)
    predicted, costs = (p[:, 1] >= 0.3).astype(int), [[0.0, 3.0], [2.0, 0.0]]
    found = aims.outcome(y, predicted, np.ones(400, dtype=bool), 1, costs)
    (tn, fp), (fn, tp) = sk.confusion_matrix(y, predicted)
    assert found["precision"].value == pytest.approx(sk.precision_score(y, predicted))
    assert found["recall"].value == pytest.approx(sk.recall_score(y, predicted))
    assert found["false_positive_rate"].value == pytest.approx(fp / (fp + tn))
    assert found["cost"].value == pytest.approx((3 * fp + 2 * fn) / 400)
    interval = proportion_confint(tp, tp + fn, method="wilson")
    assert (found["recall"].low, found["recall"].high) == pytest.approx(interval)


def test_coverage_is_the_accuracy_of_the_most_confident_rows():
    y, p = draw(np.random.default_rng(3), 257)
    predicted, confidence = p.argmax(axis=1), p.max(axis=1).round(2)  # with ties
    points = aims.coverage_curve(y, predicted, confidence)
    assert points[-1].coverage == 1.0 and points[-1].accuracy.value == pytest.approx(sk.accuracy_score(y, predicted))
    for point in points:
        chosen = confidence >= point.confidence
        assert point.coverage == chosen.mean()
        assert point.accuracy.value == pytest.approx((y == predicted)[chosen].mean())


def test_precision_at_a_base_rate_is_bayes_theorem():
    y, p = draw(np.random.default_rng(4), 500)
    predicted = p.argmax(axis=1)
    own = float(y.mean())
    recall = sk.recall_score(y, predicted)
    alarms = 1 - sk.recall_score(y, predicted, pos_label=0)
    for row in aims.base_rates(y, predicted, 1):
        assert row.precision.value == pytest.approx(
            row.rate * recall / (row.rate * recall + (1 - row.rate) * alarms), abs=1e-9
        )
        assert row.precision.low < row.precision.value < row.precision.high
    at_own = own * recall / (own * recall + (1 - own) * alarms)
    assert at_own == pytest.approx(sk.precision_score(y, predicted))


def test_without_positive_or_called_rows_there_is_no_precision_at_a_base_rate():
    assert aims.base_rates(np.zeros(4, dtype=int), np.zeros(4, dtype=int), 1) == []
    assert aims.base_rates(np.array([0, 1]), np.array([0, 0]), 1) == []


def true_rates(rule, share=0.3, gap=2.0):
    """What a rule gives in the population of ``draw``: the normal probabilities of both sides of its cuts."""

    def score(p):
        return (np.log(p / (1 - p)) - np.log(share / (1 - share)) + gap * gap / 2) / gap

    cut, below = score(rule.threshold), rule.abstain_below
    upper = max(cut, score(below)) if below else cut
    lower = min(cut, score(1 - below)) if below else cut
    called, missed = stats.norm.sf(upper - gap), stats.norm.cdf(lower - gap)
    alarms, refused = stats.norm.sf(upper), stats.norm.cdf(lower)
    decided = share * (called + missed) + (1 - share) * (alarms + refused)
    wrong = (share * missed + (1 - share) * alarms) / decided
    precision = share * called / (share * called + (1 - share) * alarms)
    return {"risk": wrong, "accuracy": 1 - wrong, "precision": precision, "false_positive_rate": alarms}


def kept_promises(aim, draws, seed, n=300):
    """The share of draws in which a promise holds: the rule is of one set of n rows, the promise of another."""
    generator, kept = np.random.default_rng(seed), 0
    for _ in range(draws):
        rule = aims.choose_rule(aim, None, *draw(generator, n), 1)
        y, p = draw(generator, n)
        predicted = rule.predict(p, 1)
        found = aims.promise(aim, y, predicted, rule.decided(p, predicted), 1, None)
        true = true_rates(rule)[found.of]
        kept += found.bound is None or (true >= found.bound if found.at_least else true <= found.bound)
    return kept / draws


@pytest.mark.parametrize("aim", AIMS)
def test_a_promise_holds_in_nine_draws_of_ten(aim):
    assert kept_promises(aim, 1000, seed=11) >= 0.9


def test_the_bound_of_a_cost_holds_in_nine_draws_of_ten():
    generator, costs = np.random.default_rng(7), np.array([[0, 5], [1, 0]])
    true, kept = (0.1 * 5 + 0.2 * 1) / 2, 0
    for _ in range(1000):
        y = generator.integers(2, size=200)
        wrong = generator.random(200) < np.where(y == 0, 0.1, 0.2)
        found = aims.promise("cost", y, np.where(wrong, 1 - y, y), np.ones(200, dtype=bool), 1, costs.tolist())
        kept += true <= found.bound
    assert kept >= 900


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_the_interval_of_precision_at_a_base_rate_covers(rate):
    generator, recall, alarms = np.random.default_rng(8), 0.9, 0.05
    true, covered = rate * recall / (rate * recall + (1 - rate) * alarms), 0
    for _ in range(2000):
        y = np.repeat([0, 1], [400, 100])
        predicted = (generator.random(500) < np.where(y == 1, recall, alarms)).astype(int)
        found: Metric = next(row.precision for row in aims.base_rates(y, predicted, 1) if row.rate == rate)
        covered += found.low <= true <= found.high
    assert 0.93 <= covered / 2000 <= 0.97


def test_without_a_bound_or_an_aim_nothing_is_promised():
    y, everything = np.ones(40, dtype=int), np.ones(40, dtype=bool)
    assert aims.promise("precision:0.9", y, y, everything, 1, None).holds
    nobody = aims.promise("precision:0.9", y, y, ~everything, 1, None)
    assert nobody.aim == 0.9 and nobody.bound is None and not nobody.holds
    half = aims.promise("half", y, y, everything, 1, None)
    assert half.aim is None and half.bound > 0.9 and not half.holds
