"""Metrics of rows with many labels, against scikit-learn, also on every resample."""

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.preprocessing import MultiLabelBinarizer

from finetune.evaluation import label_sets
from finetune.evaluation.baseline import tfidf_one_vs_rest
from finetune.evaluation.calibration import choose_threshold

LABELS = ["a", "b", "c", "d"]


def case(n=90, seed=0):
    """Truth, decisions and probabilities (n, 4); the last label is in no row."""
    random = np.random.default_rng(seed)
    truth = random.random((n, 4)) < [0.5, 0.3, 0.1, 0.0]
    probabilities = np.clip(0.5 * truth + 0.6 * random.random((n, 4)), 0.01, 0.99)
    return truth, probabilities >= 0.55, probabilities


def expected(truth, predicted, probabilities):
    return {
        "f1_micro": sk.f1_score(truth, predicted, average="micro", zero_division=0),
        "f1_macro": sk.f1_score(truth, predicted, average="macro", zero_division=0),
        "subset_accuracy": sk.accuracy_score(truth, predicted),
        "precision_micro": sk.precision_score(truth, predicted, average="micro", zero_division=0),
        "recall_micro": sk.recall_score(truth, predicted, average="micro", zero_division=0),
        "hamming_loss": sk.hamming_loss(truth, predicted),
        "log_loss": np.mean([sk.log_loss(t, p, labels=[0, 1]) for t, p in zip(truth.T, probabilities.T, strict=True)]),
    }


def test_the_metrics_are_scikit_learns():
    truth, predicted, probabilities = case()
    found = label_sets.label_set_metrics(truth, predicted, probabilities, 200, 0)
    assert {name: metric.value for name, metric in found.items()} == pytest.approx(
        expected(truth, predicted, probabilities), abs=1e-12
    )
    assert all(metric.low <= metric.value <= metric.high and metric.n == 90 for metric in found.values())


def test_each_resample_is_scored_as_scikit_learn_scores_its_rows():
    truth, predicted, probabilities = case()
    random = np.random.default_rng(3)
    drawn = [random.integers(90, size=90) for _ in range(5)]
    counts = np.array([np.bincount(rows, minlength=90) for rows in drawn], dtype=float)
    found = label_sets.LabelSetCounts(truth, predicted).scores(counts)
    for at, rows in enumerate(drawn):
        theirs = expected(truth[rows], predicted[rows], probabilities[rows])
        assert {name: own[at] for name, own in found.items()} == pytest.approx(
            {name: theirs[name] for name in found}, abs=1e-12
        )


def test_the_difference_is_paired_and_has_the_metrics_interval_against_nothing():
    truth, predicted, probabilities = case()
    none = np.zeros_like(predicted)
    found = label_sets.label_set_difference("f1_micro", truth, predicted, none, 300, 7)
    alone = label_sets.label_set_metrics(truth, predicted, probabilities, 300, 7)["f1_micro"]
    assert (found.value, found.low, found.high) == pytest.approx((alone.value, alone.low, alone.high))
    same = label_sets.label_set_difference("f1_macro", truth, predicted, predicted, 300, 7)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_per_label_scores_are_scikit_learns_and_undefined_where_there_is_nothing():
    truth, predicted, _ = case()
    predicted[:, 3] = False
    found = label_sets.per_label(truth, predicted, LABELS, np.full(4, 0.5))
    columns = sk.precision_recall_fscore_support(truth, predicted, zero_division=0)
    for at, own in enumerate(found[:3]):
        assert (own.precision, own.recall, own.f1, own.support) == pytest.approx([part[at] for part in columns])
    assert (found[3].precision, found[3].recall, found[3].f1, found[3].support) == (None, None, None, 0)
    assert found[0].predicted == predicted[:, 0].sum()


def test_each_label_has_the_threshold_of_its_best_f1():
    truth, _, probabilities = case()
    found = label_sets.choose_thresholds(truth, probabilities, "max-f1")
    for at in range(3):
        best = max(sk.f1_score(truth[:, at], probabilities[:, at] >= t) for t in probabilities[:, at])
        assert sk.f1_score(truth[:, at], probabilities[:, at] >= found[at]) == pytest.approx(best)
        assert found[at] == choose_threshold(truth[:, at], probabilities[:, at])
    assert found[3] == 0.5 and (label_sets.choose_thresholds(truth, probabilities, "half") == 0.5).all()


def test_labels_of_few_rows_share_the_threshold_of_their_best_micro_f1():
    truth, _, probabilities = case()
    rare = np.zeros((len(truth), 3), dtype=bool)
    rare[[1, 2, 3, 4], 0] = rare[[5, 6], 1] = rare[7, 2] = True
    p = np.clip(np.random.default_rng(1).random(rare.shape) * 0.6 + 0.3 * rare, 0.01, 0.99)
    y, p = np.hstack([truth[:, :2], rare]), np.hstack([probabilities[:, :2], p])
    found = label_sets.choose_thresholds(y, p, "max-f1")
    assert found[:2].tolist() == [choose_threshold(y[:, at], p[:, at]) for at in (0, 1)]
    assert len(set(found[2:].tolist())) == 1
    best = max(sk.f1_score(y[:, 2:], p[:, 2:] >= t, average="micro") for t in np.unique(p[:, 2:]))
    assert sk.f1_score(y[:, 2:], p[:, 2:] >= found[2], average="micro") == pytest.approx(best)
    weights = np.random.default_rng(2).integers(1, 4, len(y))
    weighted = label_sets.choose_thresholds(y, p, "max-f1", weights)[2]
    every = np.repeat(np.arange(len(y)), weights)
    best = max(sk.f1_score(y[every, 2:], p[every, 2:] >= t, average="micro") for t in np.unique(p[:, 2:]))
    assert sk.f1_score(y[every, 2:], p[every, 2:] >= weighted, average="micro") == pytest.approx(best)


def test_indicators_are_the_binarizers():
    rows = [["b"], [], ["a", "d"]]
    theirs = MultiLabelBinarizer(classes=LABELS).fit_transform(rows)
    assert (label_sets.indicators(rows, LABELS) == theirs).all()


def test_a_sets_probability_is_the_product_over_its_labels():
    p = np.array([[0.9, 0.2, 0.5]])
    assert label_sets.set_probability(p, np.array([[True, False, True]]))[0] == pytest.approx(0.9 * 0.8 * 0.5)
    every = np.array([[i & 1, i & 2, i & 4] for i in range(8)], dtype=bool)
    assert label_sets.set_probability(np.repeat(p, 8, axis=0), every).sum() == pytest.approx(1)


def test_one_vs_rest_learns_each_label_and_gives_a_label_of_every_row_its_share():
    words = ["alpha", "beta", "gamma"]
    random = np.random.default_rng(0)
    y = random.random((80, 3)) < 0.5
    y[:, 2] = True
    texts = [" ".join(word for word, has in zip(words, row, strict=True) if has) + " and" for row in y]
    p, note, _ = tfidf_one_vs_rest(texts[:40], y[:40], texts[40:60], y[40:60], texts[60:])
    assert ((p >= 0.5) == y[60:]).all() and (p[:, 2] == 1).all() and "one classifier for each label" in note


def test_of_no_rows_there_is_no_difference():
    nothing = np.zeros((0, 4), dtype=bool)
    found = label_sets.label_set_difference("f1_micro", nothing, nothing, nothing, 300, 7)
    assert (found.value, found.n, found.reason) == (None, 0, "no rows")


def test_texts_without_words_get_the_shares_of_the_labels():
    y = np.array([[1, 0, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]], dtype=bool)
    p, note, _ = tfidf_one_vs_rest([" ", "\n", " ", ""], y, [" "], y[:1], [" ", "a"])
    assert p.tolist() == [[1.0, 0.25, 0.25]] * 2 and "shares of the labels" in note
