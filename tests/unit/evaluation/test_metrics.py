"""Metrics and their intervals against scikit-learn, resample by resample."""

import numpy as np
import pytest
from sklearn import metrics as sk

from finetune.evaluation.metrics import DecisionCounts, classification_metrics, paired_difference, per_class


def sample(n, k, seed=0, classes=None):
    generator = np.random.default_rng(seed)
    y = generator.choice(classes or k, size=n)
    logits = generator.normal(size=(n, k)).round(1)  # rounded: ties among the probabilities
    logits[np.arange(n), y] += 1.2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return y, probabilities.argmax(axis=1), probabilities


def reference(y, predicted, p, k, positive):
    """The same metrics straight from scikit-learn; calibration error by its formula."""
    classes = list(range(k))
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == y
    ece = sum(
        abs(correct[inside].mean() - confidence[inside].mean()) * inside.mean()
        for low in np.arange(15) / 15
        if (inside := (confidence > low) & (confidence <= low + 1 / 15)).any()
    )
    onehot = np.eye(k)[y]
    values = {
        "accuracy": sk.accuracy_score(y, predicted),
        "ece": ece,
        "f1_macro": sk.f1_score(y, predicted, labels=classes, average="macro", zero_division=0),
        "log_loss": sk.log_loss(y, p, labels=classes),
        "brier": ((p - onehot) ** 2).sum(axis=1).mean(),
    }
    if k == 2:
        truth, called = y == positive, predicted == positive
        values |= {
            "f1": sk.f1_score(truth, called, zero_division=0),
            "brier": ((p[:, 1] - y) ** 2).mean(),
            "precision": sk.precision_score(truth, called, zero_division=0),
            "recall": sk.recall_score(truth, called, zero_division=0),
        }
        if 0 < truth.sum() < len(y):
            values |= {
                "roc_auc": sk.roc_auc_score(truth, p[:, positive]),
                "average_precision": sk.average_precision_score(truth, p[:, positive]),
            }
    return values


@pytest.mark.parametrize(("k", "positive"), [(2, 1), (2, 0), (5, None)])
def test_values_and_intervals_equal_scikit_learn_on_every_resample(k, positive):
    n, resamples, seed = 70, 40, 11
    y, predicted, p = sample(n, k)
    if k == 2:
        predicted = np.where(p[:, positive] >= 0.4, positive, 1 - positive)  # not the argmax
    found = classification_metrics(y, predicted, p, list("abcde")[:k], positive, resamples, seed)
    for name, value in reference(y, predicted, p, k, positive).items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
        assert found[name].n == n

    generator = np.random.default_rng(seed)
    drawn = [generator.integers(n, size=n) for _ in range(resamples)]
    values = [reference(y[rows], predicted[rows], p[rows], k, positive) for rows in drawn]
    for name in values[0]:
        low, high = np.percentile([value[name] for value in values if name in value], [2.5, 97.5])
        if name == "accuracy":
            continue  # Wilson's
        if name == "ece":
            low = min(low, found[name].value)
        assert (found[name].low, found[name].high) == pytest.approx((low, high), abs=1e-10), name


def test_accuracy_has_wilsons_interval():
    y, predicted, p = sample(90, 3)
    from scipy.stats import binomtest

    expected = binomtest(int((y == predicted).sum()), 90).proportion_ci(method="wilson")
    accuracy = classification_metrics(y, predicted, p, list("abc"), None, 100, 0)["accuracy"]
    assert (accuracy.low, accuracy.high) == pytest.approx((expected.low, expected.high))


def test_one_class_in_the_rows_leaves_the_rankings_undefined_with_a_reason():
    _, predicted, p = sample(20, 2)
    found = classification_metrics(np.zeros(20, dtype=int), predicted, p, ["ham", "spam"], 1, 100, 0)
    assert found["roc_auc"].value is None and found["average_precision"].value is None
    assert "one class" in found["roc_auc"].reason and found["roc_auc"].n == 20
    assert found["log_loss"].value == pytest.approx(sk.log_loss(np.zeros(20), p, labels=[0, 1]))


def test_what_needs_rows_of_the_positive_class_is_undefined_without_them():
    _, predicted, p = sample(20, 2)
    ones, zeros = np.ones(20, dtype=int), np.zeros(20, dtype=int)
    absent = classification_metrics(zeros, predicted, p, ["ham", "spam"], 1, 100, 0)
    assert [absent[name].value for name in ("f1", "recall", "f1_macro")] == [None] * 3 and predicted.any()
    assert absent["precision"].value == 0 and absent["f1"].reason == "only one class in the 20 rows: ham"
    assert classification_metrics(zeros, zeros, p, ["ham", "spam"], 1, 100, 0)["precision"].value is None
    alone = classification_metrics(ones, predicted, p, ["ham", "spam"], 1, 100, 0)
    for name, score in (("f1", sk.f1_score), ("recall", sk.recall_score), ("precision", sk.precision_score)):
        assert alone[name].value == pytest.approx(score(ones, predicted))
    assert alone["f1_macro"].value is None and alone["accuracy"].value == (predicted == 1).mean()


def test_labels_that_no_row_has_count_as_in_scikit_learn():
    y, predicted, p = sample(40, 4, classes=[0, 2])
    found = classification_metrics(y, predicted, p, list("abcd"), None, 100, 0)
    for name, value in reference(y, predicted, p, 4, None).items():
        assert found[name].value == pytest.approx(value), name


def test_no_rows_leave_everything_undefined():
    found = classification_metrics([], [], np.zeros((0, 2)), ["a", "b"], 1, 100, 0)
    assert {entry.value for entry in found.values()} == {None}
    assert all(entry.n == 0 and entry.reason for entry in found.values())


def test_the_interval_of_a_test_of_the_size_of_the_sms_set_holds_the_value():
    y, predicted, p = sample(1115, 2)
    found = classification_metrics(y, predicted, p, ["ham", "spam"], 1, 1000, 0)
    assert found["f1"].low < found["f1"].value < found["f1"].high


@pytest.mark.parametrize("metric", ["accuracy", "f1", "f1_macro"])
def test_paired_difference_equals_a_bootstrap_by_hand(metric):
    n, resamples, seed = 60, 60, 4
    y, a, _ = sample(n, 2, seed=1)
    _, b, _ = sample(n, 2, seed=2)

    def score(rows, predicted):
        if metric == "accuracy":
            return sk.accuracy_score(y[rows], predicted[rows])
        average = "binary" if metric == "f1" else "macro"
        return sk.f1_score(y[rows], predicted[rows], average=average, labels=[0, 1], zero_division=0)

    generator = np.random.default_rng(seed)
    drawn = [generator.integers(n, size=n) for _ in range(resamples)]
    low, high = np.percentile([score(rows, a) - score(rows, b) for rows in drawn], [2.5, 97.5])
    every = np.arange(n)
    found = paired_difference(metric, y, a, b, 2, 1, resamples, seed)
    assert found.value == pytest.approx(score(every, a) - score(every, b))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_per_class_of_no_rows_is_zero():
    found = per_class(np.array([], dtype=int), np.array([], dtype=int), ["a", "b"])
    assert [(row.label, row.precision, row.recall, row.f1, row.support) for row in found] == [
        ("a", 0, 0, 0, 0),
        ("b", 0, 0, 0, 0),
    ]


def test_per_class_equals_scikit_learns_report():
    y, predicted, _ = sample(100, 3)
    expected = sk.classification_report(
        y, predicted, labels=[0, 1, 2], target_names=list("abc"), output_dict=True, zero_division=0
    )
    for row in per_class(y, predicted, list("abc")):
        own = expected[row.label]
        assert (row.precision, row.recall, row.f1, row.support) == pytest.approx(
            (own["precision"], own["recall"], own["f1-score"], own["support"])
        )


def test_a_label_that_a_resample_misses_by_chance_is_left_out_of_macro_f1():
    y, predicted = np.array([0, 0, 1, 1, 2, 2, 3]), np.array([0, 1, 1, 1, 2, 0, 3])
    drawn = np.array([0, 0, 1, 2, 2, 3, 3])  # rows of labels 0 and 1 alone
    counts = np.bincount(drawn, minlength=len(y))[None, :]
    expected = sk.f1_score(y[drawn], predicted[drawn], average="macro")  # over the labels that occur
    assert DecisionCounts(y, predicted, 4).scores(counts, None)["f1_macro"] == pytest.approx([expected])
    with_a_fifth = sk.f1_score(y, predicted, labels=range(5), average="macro", zero_division=0)
    whole = DecisionCounts(y, predicted, 5).scores(np.ones((1, len(y))), None)["f1_macro"]
    assert whole == pytest.approx([with_a_fifth])  # a label that no row has counts as 0, as in the value itself


def test_intervals_cover_the_value_of_the_population_in_simulation():
    generator = np.random.default_rng(0)

    def draw(n):
        y = (generator.random(n) < 0.2).astype(int)
        p = 1 / (1 + np.exp(-1.3 * (generator.normal(size=n) + 2.2 * y - 1.4)))
        return y, (p > 0.5).astype(int), np.column_stack([1 - p, p])

    y, predicted, p = draw(200_000)
    true = {"accuracy": (y == predicted).mean(), "f1": sk.f1_score(y, predicted), "log_loss": sk.log_loss(y, p)}
    true |= {"f1_macro": sk.f1_score(y, predicted, average="macro"), "roc_auc": sk.roc_auc_score(y, p[:, 1])}
    covered, trials = dict.fromkeys(true, 0), 300
    for trial in range(trials):
        found = classification_metrics(*draw(400), ["ham", "spam"], 1, 200, trial)
        for name, value in true.items():
            covered[name] += found[name].low <= value <= found[name].high
    shares = {name: count / trials for name, count in covered.items()}
    assert all(0.91 <= share <= 0.985 for share in shares.values()), shares  # 95 %, and its own error over 300 trials


def test_a_single_known_label_leaves_the_losses_undefined_with_a_reason():
    zeros = np.zeros(5, dtype=int)
    found = classification_metrics(zeros, zeros, np.ones((5, 1)), ["ham"], None, 100, 0)
    assert found["accuracy"].value == found["f1_macro"].value == 1
    for name in ("log_loss", "brier"):
        assert (found[name].value, found[name].reason) == (None, "only one label is known")
