"""What ``TextClassifier.fit`` takes besides texts and labels, and what it leaves: weights, thresholds, the history."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.utils.class_weight import compute_class_weight

from finetune.estimator import TextClassifier
from finetune.evaluation.calibration import choose_threshold
from finetune.tables.in_memory import read_labels
from finetune.tables.readers import read_labelled
from finetune.tables.splits import grouped_split
from finetune.tables.training_rows import read_training_rows

WORDS = {"spam": ["win", "cash", "prize", "you"], "ham": ["lunch", "home", "mum", "you"]}
RANDOM = np.random.default_rng(4)
KINDS = np.array(["spam", "ham", "ham"] * 14)
TEXTS = np.array([" ".join(RANDOM.choice(WORDS[kind], 1 + i % 2)) + f" {chr(97 + i)}" for i, kind in enumerate(KINDS)])
FRAME = pd.DataFrame({"text": TEXTS, "label": KINDS})


@pytest.fixture(scope="module")
def make(tiny):
    """``make(name=value, ...)``: an estimator that is quick."""
    return lambda **more: TextClassifier(**{"weights": tiny, "epochs": 2, "lr": 1e-2, "batch_size": 8} | more)


@pytest.fixture(scope="module")
def plain(make):
    return make(validation_fraction=0.3).fit(TEXTS, KINDS)


def parts():
    """The rows that an estimator with these settings trains and validates on."""
    split = grouped_split(TEXTS.tolist(), KINDS.tolist(), 0.3, 0.0, 123)
    return split["train"], split["val"]


@pytest.mark.parametrize("weights", [2.5, [0.25] * len(TEXTS), pa.array([7] * len(TEXTS))])
def test_equal_weights_are_none(make, plain, weights):
    weighted = make(validation_fraction=0.3).fit(TEXTS, KINDS, sample_weight=weights)
    assert np.array_equal(weighted.predict_proba(TEXTS), plain.predict_proba(TEXTS))
    assert weighted.history_ == plain.history_


def test_a_row_of_weight_0_is_as_good_as_not_there(make):
    weights = RANDOM.integers(0, 3, len(TEXTS))
    kept = weights > 0
    zeros = make().fit(TEXTS, KINDS, weights)
    without = make().fit(TEXTS[kept], KINDS[kept], weights[kept])
    unweighted = make().fit(TEXTS[kept], KINDS[kept])
    assert np.array_equal(zeros.predict_proba(TEXTS), without.predict_proba(TEXTS))
    assert not np.array_equal(zeros.predict_proba(TEXTS), unweighted.predict_proba(TEXTS))
    assert zeros.origin_["data_sha256"] != unweighted.origin_["data_sha256"]
    with pytest.raises(ValueError, match="fit needs at least two classes; got one class, 'ham'"):
        make().fit(TEXTS, KINDS, KINDS == "ham")


@pytest.mark.parametrize("dtype", [object, int])
def test_weights_of_classes_are_weights_of_their_rows(make, dtype):
    labels = KINDS if dtype is object else (KINDS == "spam").astype(int)
    heavy = "spam" if dtype is object else 1
    all_rows = make(validation_fraction=0)
    by_class = clone(all_rows).set_params(class_weight={heavy: 3}).fit(TEXTS, labels)
    by_row = clone(all_rows).fit(TEXTS, labels, np.where(labels == heavy, 3, 1))
    assert by_class.predict_proba(TEXTS) == pytest.approx(by_row.predict_proba(TEXTS), abs=1e-5)
    balanced = clone(all_rows).set_params(class_weight="balanced").fit(TEXTS, labels)
    weights = compute_class_weight("balanced", classes=balanced.classes_, y=labels)
    theirs = dict(zip(balanced.classes_, weights, strict=True))
    as_dict = clone(all_rows).set_params(class_weight=theirs).fit(TEXTS, labels)
    assert as_dict.predict_proba(TEXTS) == pytest.approx(balanced.predict_proba(TEXTS), abs=1e-5)
    assert (
        by_class.predict_proba(TEXTS)[:, 1].mean()
        > clone(all_rows).fit(TEXTS, labels).predict_proba(TEXTS)[:, 1].mean()
    )


def test_parameters_of_any_kind_come_back_from_a_file(make, tmp_path):
    clf = make(class_weight={np.int64(0): 2, 1: 0.5}, threshold=np.float64(0.25), random_state=np.random.default_rng(3))
    clf.fit(TEXTS, (KINDS == "spam").astype(int))
    again = TextClassifier.load(clf.save(tmp_path / "bundle"))
    assert again.class_weight == {0: 2.0, 1: 0.5} and again.random_state is None
    assert again.threshold == again.threshold_ == clf.threshold_ == 0.25
    assert np.array_equal(again.decision_function(TEXTS), clf.decision_function(TEXTS))


def test_the_history_is_what_scikit_learn_counts_on_the_rows_held_out(make):
    weights = RANDOM.uniform(0.1, 4, len(TEXTS))
    clf = make(epochs=1, validation_fraction=0.3).fit(TEXTS, KINDS, weights)
    (found,) = clf.history_
    _, val = parts()
    bundle = clf.bundle_
    logits = bundle.logits(TEXTS[val].tolist()).astype(float)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    guessed = clf.classes_[p.argmax(1)]
    assert found["log_loss"] == pytest.approx(log_loss(KINDS[val], p, sample_weight=weights[val]), rel=1e-5)
    assert found["accuracy"] == pytest.approx(accuracy_score(KINDS[val], guessed, sample_weight=weights[val]))
    assert found["f1_macro"] == clf.best_score_
    assert clf.best_score_ == pytest.approx(
        f1_score(KINDS[val], guessed, average="macro", sample_weight=weights[val], zero_division=0)
    )
    assert (found["rows"], found["best"], found["epoch"]) == ("validation", True, 1.0)


def test_the_history_has_every_validation_and_marks_the_kept_one(make):
    settings = {"metric": "log_loss", "evaluations_per_epoch": 2}
    clf = make(epochs=3, validation_fraction=0.3, settings=settings).fit(TEXTS, KINDS)
    table = pd.DataFrame(clf.history_)
    assert table["epoch"].tolist() == pytest.approx([0.5, 1, 1.5, 2, 2.5, 3]) and np.isfinite(table["loss"]).all()
    assert clf.best_score_ == table["log_loss"].min() == table[table["best"]]["log_loss"].iloc[-1]


def test_without_rows_held_out_all_are_trained_on(make):
    clf = make(validation_fraction=0).fit(TEXTS, KINDS)
    assert clf.best_score_ is None and {found["rows"] for found in clf.history_} == {"training"}
    assert clf.history_[0]["step"] == -(-len(TEXTS) // 8) and clf.bundle_.temperature == 1.0


@pytest.mark.parametrize("threshold", [0.5, 0.2, 0.9, "max-f1"])
def test_the_sign_of_the_decision_is_the_prediction_at_the_threshold(make, threshold):
    clf = make(epochs=1, validation_fraction=0.4, threshold=threshold).fit(TEXTS, KINDS)
    p, decisions = clf.predict_proba(TEXTS)[:, 1], clf.decision_function(TEXTS)
    assert np.array_equal(clf.predict(TEXTS) == "spam", p >= clf.threshold_)
    assert np.array_equal(decisions > 0, p > clf.threshold_) and decisions.shape == (len(TEXTS),)
    assert np.argsort(decisions).tolist() == np.argsort(p).tolist()
    if threshold == "max-f1":
        val = grouped_split(TEXTS.tolist(), KINDS.tolist(), 0.4, 0.0, 123)["val"]
        assert clf.threshold_ == pytest.approx(choose_threshold(KINDS[val] == "spam", p[val])) != 0.5
    else:
        assert clf.threshold_ == threshold


def test_of_more_classes_the_decision_is_the_highest_logit(make):
    clf = make(epochs=1).fit(TEXTS, [f"{kind} {i % 2}" for i, kind in enumerate(KINDS)])
    decisions = clf.decision_function(TEXTS)
    assert decisions.shape == (len(TEXTS), 4) and clf.threshold_ is None
    assert np.array_equal(clf.classes_[decisions.argmax(1)], clf.predict(TEXTS))
    assert np.exp(clf.predict_log_proba(TEXTS)) == pytest.approx(clf.predict_proba(TEXTS))


def test_a_generator_draws_the_seed(make):
    def fitted(state):
        return make(epochs=1, random_state=state).fit(TEXTS, KINDS).predict_proba(TEXTS)

    first, again, other = (fitted(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    used = np.random.default_rng(5)
    assert np.array_equal(first, fitted(used)) and not np.array_equal(first, fitted(used))  # it goes on


@pytest.mark.parametrize(
    "texts, labels",
    [
        (pa.array(TEXTS), pa.array(KINDS)),
        (pa.chunked_array([TEXTS[:9], TEXTS[9:]]), pa.array(KINDS).dictionary_encode()),
        (pa.table({"text": TEXTS}), pa.chunked_array([KINDS])),
        (pa.record_batch({"text": TEXTS}), KINDS),
        (FRAME["text"].astype(pd.ArrowDtype(pa.string())), FRAME["label"].astype(pd.ArrowDtype(pa.string()))),
    ],
)
def test_arrow_gives_what_arrays_give(make, plain, texts, labels):
    clf = make(validation_fraction=0.3).fit(texts, labels)
    assert np.array_equal(clf.predict_proba(texts), plain.predict_proba(TEXTS))
    assert getattr(clf, "feature_names_in_", ["text"]) == ["text"]


def test_labels_are_read_as_those_of_a_table(make, tmp_path):
    given = ["objective ", "subjective", "\tobjective", "subjective\n", "objective"] * 2
    texts = [f"text {i}" for i in range(len(given))]
    (tmp_path / "table.jsonl").write_text(
        "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in zip(texts, given, strict=True))
    )
    from_table = read_labelled(tmp_path / "table.jsonl", "text", "label").labels
    for kind in (list, np.array, pd.Series, lambda y: np.array(y, dtype=object)):
        with pytest.warns(DataConversionWarning, match="white space around 6 labels is ignored, the first in row 0"):
            classes, targets = read_labels(kind(given))
        assert classes[targets].tolist() == from_table
    with pytest.warns(DataConversionWarning):
        clf = make(epochs=1).fit(texts, given)
        assert clf.score(texts, given) == accuracy_score(from_table, clf.predict(texts))
    for empty in ("", "  "):
        with pytest.raises(ValueError, match="1 missing label, the first in row 2"):
            make().fit(texts[:4], ["a", "b", empty, "a"])


@pytest.mark.parametrize(
    "X, y",
    [
        (FRAME, FRAME["label"]),
        (FRAME, KINDS),
        (FRAME, FRAME["label"] == "spam"),
        (FRAME.assign(kind=[f" {kind}" for kind in KINDS])[["kind", "text"]], KINDS),
        (pa.table({"text": TEXTS, "label": KINDS}), KINDS),
        (FRAME.assign(label=KINDS == "spam"), KINDS == "spam"),
    ],
)
def test_a_frame_that_holds_the_labels_is_refused(make, X, y):
    with pytest.raises(ValueError, match=r"X contains the labels: its column '(label|kind)' is y.*X\[\['text'\]\]"):
        make().fit(X, y)


def test_a_column_that_the_labels_are_made_of_is_no_label():
    frame = FRAME.assign(length=FRAME["text"].str.len())
    assert read_training_rows(frame, frame["text"].str.contains("win")).columns == ["text", "label", "length"]
    assert len(read_training_rows(frame, frame["length"] > 9).texts) == len(frame)


@pytest.mark.parametrize(
    "weights, words",
    [
        ([1, 2], r"one number for each text; got shape \(2,\), 42 texts"),
        (np.ones((len(TEXTS), 1)), "one number for each text"),
        ([-1.0] * len(TEXTS), "sample_weight of row 0 is not a weight; got -1.0"),
        ([1.0, np.nan] * (len(TEXTS) // 2), "sample_weight of row 1 is not a weight; got nan"),
        (np.zeros(len(TEXTS)), "at least one non-zero number"),
        (["much"] * len(TEXTS), "sample_weight is not numeric"),
    ],
)
def test_what_is_no_weight_is_refused(make, weights, words):
    with pytest.raises(ValueError, match=words):
        make().fit(TEXTS, KINDS, sample_weight=weights)


@pytest.mark.parametrize(
    "parameters, words",
    [
        ({"settings": {"epochs": 2}}, r"settings\['epochs'\] is set by a parameter.*Give epochs alone"),
        ({"settings": {"seed": 2}}, "Give random_state alone"),
        ({"settings": {"class_weights": "balanced"}}, "Give class_weight alone"),
        ({"class_weight": {"eggs": 2}}, "names classes that are not in y; got eggs; known: ham, spam"),
        ({"class_weight": {"ham": 0}}, "must be a positive number; got ham: 0"),
        ({"class_weight": "even"}, "class_weights: .*'balanced'"),
        ({"threshold": 1}, "threshold; got 1; known: a probability between 0 and 1"),
        ({"threshold": "half"}, "threshold; got 'half'"),
        ({"threshold": "max-f1", "validation_fraction": 0}, "chosen on validation rows"),
        ({"validation_fraction": -0.1}, "val_fraction"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(make, parameters, words):
    with pytest.raises(ValueError, match=words):
        make(**parameters).fit(TEXTS, KINDS)


def test_a_threshold_is_for_two_classes(make):
    with pytest.raises(ValueError, match=r"threshold=0\.3 needs two classes; got 3 classes"):
        make(threshold=0.3).fit(["a", "b", "c"], [0, 1, 2])


def test_what_is_met_in_part_is_said(make):
    with pytest.warns(UserWarning, match="max_length=5000 is more than the 32 tokens that the model reads"):
        assert make(epochs=1, max_length=5000).fit(TEXTS, KINDS).bundle_.max_length == 32
    with pytest.warns(UserWarning, match="lr=50 is far too high"):
        make(epochs=1, lr=50).fit(TEXTS, KINDS)
