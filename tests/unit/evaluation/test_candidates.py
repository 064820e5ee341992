"""Candidates on the same rows against scikit-learn, scipy and the definition of Holm's correction."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, f1_score

from finetune.evaluation.candidates import compare_candidates, compare_rows
from finetune.evaluation.intervals import holm
from finetune.evaluation.results import Metric


def drawn(error: float, y, seed: int) -> np.ndarray:
    """Three classifiers that are wrong on so large a share of the rows."""
    random = np.random.default_rng(seed)
    k = y.max() + 1
    return np.array([np.where(random.random(len(y)) < error, random.integers(k, size=len(y)), y) for _ in range(3)])


@pytest.mark.parametrize("k", [2, 4])
def test_values_are_the_means_over_the_seeds_of_scikit_learns(k):
    y = np.random.default_rng(0).integers(k, size=120)
    decisions = {"good": drawn(0.1, y, 1), "bad": drawn(0.5, y, 2), "one": drawn(0.2, y, 3)[:1]}
    found = compare_candidates(y, decisions, k, 1 if k == 2 else None, "good", 200, 0)
    metric, average = ("f1", "binary") if k == 2 else ("f1_macro", "macro")
    for name, rows in decisions.items():
        accuracies = [accuracy_score(y, row) for row in rows]
        f1s = [f1_score(y, row, average=average) for row in rows]
        assert found[name].metrics["accuracy"].value == pytest.approx(np.mean(accuracies))
        assert found[name].metrics[metric].value == pytest.approx(np.mean(f1s))
        assert [fit["accuracy"] for fit in found[name].by_seed] == pytest.approx(accuracies)
        assert [fit[metric] for fit in found[name].by_seed] == pytest.approx(f1s)
    assert found["good"].difference is None
    difference = found["bad"].difference.metrics[metric]
    assert difference.value == pytest.approx(found["bad"].metrics[metric].value - found["good"].metrics[metric].value)


def test_intervals_are_scipys_percentile_bootstrap_of_the_mean_over_the_seeds():
    y = np.random.default_rng(0).integers(2, size=150)
    decisions = {"a": drawn(0.2, y, 1), "b": drawn(0.4, y, 2)}
    found = compare_candidates(y, decisions, 2, 1, "a", 4000, 0)
    right = {name: (rows == y).mean(axis=0) for name, rows in decisions.items()}
    own = bootstrap((right["a"],), np.mean, n_resamples=4000, method="percentile", random_state=1)
    assert found["a"].metrics["accuracy"].low == pytest.approx(own.confidence_interval.low, abs=0.01)
    assert found["a"].metrics["accuracy"].high == pytest.approx(own.confidence_interval.high, abs=0.01)

    def f1_difference(at):
        rows = at.astype(int)
        of = {name: np.mean([f1_score(y[rows], row[rows]) for row in given]) for name, given in decisions.items()}
        return of["b"] - of["a"]

    own = bootstrap(
        (np.arange(len(y)),), f1_difference, n_resamples=300, method="percentile", vectorized=False, random_state=1
    )
    difference = found["b"].difference.metrics["f1"]
    assert difference.low == pytest.approx(own.confidence_interval.low, abs=0.03)
    assert difference.high == pytest.approx(own.confidence_interval.high, abs=0.03)
    assert found["b"].difference.metrics["accuracy"].p_value <= found["b"].difference.p_value


def test_a_candidate_like_the_reference_differs_by_nothing():
    y = np.random.default_rng(0).integers(2, size=60)
    same = drawn(0.2, y, 1)
    found = compare_candidates(y, {"a": same, "b": same.copy()}, 2, 1, "a", 200, 0)
    assert found["b"].difference.p_value == 1.0
    assert found["b"].difference.metrics["f1"].low == found["b"].difference.metrics["f1"].high == 0.0


def test_holm_is_the_closed_test_with_bonferroni():
    """A hypothesis' corrected p is the largest, over the sets it is in, of the set's size times its smallest p."""
    random = np.random.default_rng(0)
    for _ in range(50):
        p = (random.random(5) ** 3).tolist()
        expected = [
            max(
                min(1.0, size * min(p[j] for j in chosen))
                for size in range(1, 6)
                for chosen in combinations(range(5), size)
                if i in chosen
            )
            for i in range(5)
        ]
        assert holm(p) == pytest.approx(expected)
    assert holm([]) == []


def test_rows_with_parts_are_compared_over_all_parts():
    """Nats of texts of unequal length: the mean is over all their tokens, and so is scipy's interval."""
    random = np.random.default_rng(4)
    parts = random.integers(1, 40, size=60)
    scores = {name: parts * random.gamma(4, level, size=(2, 60)) for name, level in (("a", 1.0), ("b", 1.3))}
    found = compare_rows(scores, "loss", "a", 2000, 0, parts)
    for name, own in scores.items():
        assert found[name].metrics["loss"].value == pytest.approx(own.mean(axis=0).sum() / parts.sum())
        assert [seed["loss"] for seed in found[name].by_seed] == pytest.approx(own.sum(axis=1) / parts.sum())
    rows = (scores["b"].mean(axis=0), parts)
    expected = bootstrap(
        rows,
        lambda x, n, axis=-1: x.sum(axis) / n.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        random_state=1,
    ).confidence_interval
    entry = found["b"].metrics["loss"]
    assert (entry.low, entry.high, entry.n) == (*(pytest.approx(end, rel=0.03) for end in expected), 60)
    difference = found["b"].difference
    assert difference.metrics["loss"].value == pytest.approx(entry.value - found["a"].metrics["loss"].value)
    assert difference.p_value < 0.01 and found["a"].difference is None


def test_a_share_that_no_resample_changes_has_wilsons_interval():
    found = compare_rows({"all": np.ones((1, 20)), "none": np.zeros((1, 20))}, "right", "all", 100, 0)
    assert found["all"].metrics["right"] == Metric(1.0, pytest.approx(0.8389, abs=1e-4), 1.0, 20)
    assert found["none"].metrics["right"].high == pytest.approx(0.1611, abs=1e-4)
