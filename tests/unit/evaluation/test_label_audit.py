"""The search for wrong labels: against scikit-learn and cleanlab, and on the bundled sample with planted errors."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from finetune.evaluation.baseline import tfidf_features
from finetune.evaluation.label_audit import (
    FOLDS,
    Features,
    LabelAudit,
    Planted,
    assign_audit_folds,
    counts_text,
    judged_rows,
    measure_search,
    out_of_fold,
    planted_text,
    search,
)
from finetune.hub.assets import asset
from finetune.tables.splits import number_groups, text_keys


def blobs(n: int, k: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Well separated points (n, 3) of k labels."""
    draw = np.random.default_rng(seed)
    targets = np.arange(n) % k
    return draw.normal(size=(n, 3)) + 4 * np.eye(3)[targets % 3], targets


def alone(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Each row a group of its own, and all of them teaching."""
    return np.arange(n), np.ones(n, dtype=bool)


def test_probabilities_are_those_of_scikit_learns_cross_validation():
    values, targets = blobs(90, 3)
    folds = assign_audit_folds(targets, *alone(90), seed=1)
    model = LogisticRegression(C=0.5, max_iter=100)
    wanted = cross_val_predict(model, values, targets, cv=PredefinedSplit(folds), method="predict_proba")
    assert out_of_fold([Features("x", values, 0.5)], targets, folds, 3) == pytest.approx(wanted)
    other = Features("y", values[:, :2], 2.0)
    second = cross_val_predict(
        LogisticRegression(C=2.0, max_iter=100),
        other.values,
        targets,
        cv=PredefinedSplit(folds),
        method="predict_proba",
    )
    both = np.sqrt(wanted * second)
    found = out_of_fold([Features("x", values, 0.5), other], targets, folds, 3)
    assert found == pytest.approx(both / both.sum(axis=1, keepdims=True))


def test_the_list_is_cleanlabs_in_the_order_of_the_labels_probability():
    from cleanlab.filter import find_label_issues

    values, targets = blobs(200, 2)
    targets[::20] = 1 - targets[::20]
    groups, teaching = alone(200)
    features = [Features("x", values + np.random.default_rng(5).normal(size=values.shape), 1.0)]
    probabilities = out_of_fold(features, targets, assign_audit_folds(targets, groups, teaching, 0), 2)
    wanted = np.flatnonzero(find_label_issues(targets, probabilities, n_jobs=1))
    found = search(features, targets, groups, teaching, 2, 0)
    assert len(wanted) > 5 and sorted(found.order) == wanted.tolist()
    assert found.quality == pytest.approx(probabilities[np.arange(200), targets])
    assert (np.diff(found.quality[found.order]) >= 0).all() and (found.suggested == 1 - targets).all()


def test_no_row_is_judged_by_itself_by_a_copy_or_by_a_test_row():
    draw = np.random.default_rng(0)
    groups, targets = np.repeat(np.arange(40), 3), draw.integers(0, 2, 120)
    teaching = draw.random(120) < 0.7
    folds = assign_audit_folds(targets, groups, teaching, seed=0)
    assert set(folds[~teaching]) == {FOLDS} and set(folds[teaching]) == set(range(FOLDS))
    assert all(len(set(folds[teaching & (groups == group)])) <= 1 for group in range(40))
    values = np.eye(40)[groups]  # a text tells its copies and nothing else
    before = out_of_fold([Features("x", values, 1e6)], targets, folds, 2)
    changed = np.where(teaching, targets, 1 - targets)
    assert out_of_fold([Features("x", values, 1e6)], changed, folds, 2) == pytest.approx(before)
    assert all(np.ptp(before[folds == fold, 0]) < 1e-6 for fold in range(FOLDS))  # nothing is known of a text


def test_a_label_is_judged_where_another_text_has_it():
    targets, groups = np.array([0, 0, 1, 1, 2, 2, 3]), np.array([0, 1, 2, 2, 3, 4, 5])
    teaching = np.array([True, True, True, True, True, False, True])
    #                          two texts    one, twice     one, and a test row    one
    assert judged_rows(targets, groups, teaching).tolist() == [True, True, False, False, False, True, False]


def test_at_most_half_of_a_label_is_listed():
    values, targets = blobs(100, 2)
    rare = np.zeros(100, dtype=int)
    rare[:8] = 1  # a label that the features know nothing of: all its rows look wrong
    values = np.random.default_rng(1).normal(size=(100, 3))
    values[:8] += 0.3
    groups, teaching = alone(100)
    import finetune.evaluation.label_audit as module

    everything = np.ones(100, dtype=bool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "find_label_issues", lambda own, p: everything)
        found = search([Features("x", values, 1.0)], rare, groups, teaching, 2, 0)
    assert np.bincount(rare[found.order]).tolist() == [46, 4] and found.capped.tolist() == [True, True]
    worst = np.flatnonzero(rare == 1)[np.argsort(found.quality[rare == 1], kind="stable")[:4]]
    assert set(found.order[rare[found.order] == 1]) == set(worst)


def test_a_label_of_one_text_is_no_suspect():
    values, targets = blobs(60, 2)
    targets[7] = 2
    found = search([Features("x", values, 1.0)], targets, *alone(60), 3, 0)
    assert 7 not in found.order and found.suggested[7] == 1


def test_planted_errors_are_counted():
    values, targets = blobs(500, 2)
    planted = measure_search([Features("x", values, 1.0)], targets, *alone(500), 2, 0)
    assert (planted.rows, planted.rounds) == (10, 1) and planted.found == 10 and planted.listed >= 10
    assert planted.low < 1 == planted.high
    few = measure_search([Features("x", values[:100], 1.0)], targets[:100], *alone(100), 2, 0)
    assert (few.rows, few.rounds) == (10, 5)
    noise = np.random.default_rng(0).normal(size=(500, 3))
    blind = measure_search([Features("x", noise, 1.0)], targets, *alone(500), 2, 0)
    assert blind.found < 9 < blind.listed  # a search that knows nothing says so


def test_errors_planted_in_the_bundled_sample_are_first_in_the_list():
    lines = (asset("data") / "spam" / "sample.tsv").read_text(encoding="utf-8").splitlines()[1:]
    labels, texts = zip(*(line.split("\t", 1) for line in lines), strict=True)
    targets = (np.array(labels) == "spam").astype(int)
    n, groups = len(targets), number_groups(text_keys(texts))
    features = [Features("TF-IDF", tfidf_features(list(texts))[0].fit_transform(texts).tocsr(), 30.0)]
    rows = np.random.default_rng(0).choice(n, round(0.02 * n), replace=False)
    targets[rows] = 1 - targets[rows]
    found = search(features, targets, groups, np.ones(n, dtype=bool), 2, 0)
    first = np.argsort(found.quality, kind="stable")[: round(0.03 * n)]
    assert np.isin(rows, first).mean() >= 0.8 and np.isin(rows, found.order).mean() >= 0.8


@pytest.mark.parametrize(("rounds", "words"), [(1, "on purpose: it then"), (5, "on purpose in 5 rounds: it then")])
def test_the_search_is_described_in_words(rounds, words):
    planted = Planted(rows=10, found=8, low=0.49, high=0.94, listed=16, rounds=rounds)
    audit = LabelAudit(
        schema_version=1, rows=500, suspects={"train": 3, "test": 1}, features=["TF-IDF"], planted=planted, seconds=1.0
    )
    assert words in planted_text(audit)
    assert "8 of the 10 (80 %, 95 % interval 49 to 94), so 50 % of the list" in planted_text(audit)
    assert counts_text(audit) == "4 of 500 rows have a label that may be wrong (train 3, test 1)."
    none = replace(audit, suspects={"train": 0, "test": 0})
    assert counts_text(none) == "0 of 500 rows have a label that may be wrong."


def test_a_model_that_is_not_at_its_optimum_says_nothing():
    values = np.random.default_rng(0).normal(size=(60, 20)) * np.logspace(-2, 2, 20)
    targets = np.arange(60) % 3
    folds = assign_audit_folds(targets, *alone(60), seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = out_of_fold([Features("x", values, 100.0)], targets, folds, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1)  # and no warning was an error
