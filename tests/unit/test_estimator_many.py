"""TextClassifier on rows with many labels: every form of y, scikit-learn's metrics, weights, save and load."""

import numpy as np
import pandas as pd
import pyarrow
import pytest
from scipy import sparse
from scipy.special import expit
from sklearn import metrics as sk
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import MultiLabelBinarizer

import finetune
from finetune.errors import InputError
from finetune.tables.label_matrices import read_label_sets
from finetune.tables.training_rows import read_training_rows

LABELS = ["joy", "anger", "fear"]
WORDS = {"joy": "happy", "anger": "cross", "fear": "scared"}


def rows(count=60):
    random = np.random.default_rng(0)
    sets = [sorted(random.choice(LABELS, random.integers(0, 3), replace=False).tolist()) for _ in range(count)]
    return [" ".join(WORDS[label] for label in own) + f" {i}" for i, own in enumerate(sets)], sets


TEXTS, SETS = rows()
MATRIX = MultiLabelBinarizer(classes=sorted(LABELS)).fit_transform(SETS)


@pytest.fixture
def model(tiny):
    return finetune.TextClassifier(tiny, "full", epochs=2, lr=3e-3, validation_fraction=0.2)


@pytest.mark.parametrize(
    "y",
    [
        SETS,
        [set(own) for own in SETS],
        pd.Series(SETS),
        pyarrow.array(SETS),
        [np.array(own, dtype=object) for own in SETS],
    ],
    ids=["lists", "sets", "series", "arrow", "arrays"],
)
def test_every_list_of_lists_is_the_binarizers_matrix(y):
    found = read_label_sets(y)
    assert found.form == "lists" and found.classes.tolist() == sorted(LABELS) and (found.has == MATRIX).all()


@pytest.mark.parametrize(
    "y",
    [MATRIX, MATRIX.astype(bool), MATRIX.astype(float), MATRIX.tolist(), sparse.csr_matrix(MATRIX)],
    ids=["int", "bool", "float", "nested", "sparse"],
)
def test_every_matrix_is_read(y):
    found = read_label_sets(y)
    assert found.form == "matrix" and found.classes.tolist() == [0, 1, 2] and (found.has == MATRIX).all()
    frame = read_label_sets(pd.DataFrame(MATRIX, columns=sorted(LABELS)))
    assert frame.classes.tolist() == sorted(LABELS) and (frame.has == MATRIX).all()


@pytest.mark.parametrize("y", [["a", "b"], [1, 0], np.array([[1], [0]]), np.array([[1, 2], [0, 3]]), "ab", None])
def test_one_label_a_row_is_left_to_the_others(y):
    assert read_label_sets(y) is None


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([["a"], "b"], "row 1 of y is not a list"),
        ([["a"], [1]], "unsupported labels.*int, str"),
        ([["a"], ["a"]], "at least two different labels; got a"),
        ([["a;b"], ["c"]], "a label contains ';'"),
        (np.zeros((3, 2)), "at least two different labels"),
    ],
)
def test_unusable_labels_are_refused(y, message):
    with pytest.raises(InputError, match=message):
        read_label_sets(y)


def test_lists_come_back_as_lists_and_a_matrix_as_one(model):
    lists = model.fit(TEXTS, SETS)
    p, said = lists.predict_proba(TEXTS), lists.predict(TEXTS)
    assert lists.classes_.tolist() == sorted(LABELS) and p.shape == (60, 3) and lists.threshold_ is None
    assert [set(own) for own in said] == [set(np.array(sorted(LABELS))[row]) for row in p >= 0.5]
    assert p == pytest.approx(expit(lists.bundle_.logits(TEXTS).astype(float)))
    assert lists.predict_log_proba(TEXTS) == pytest.approx(np.log(p))
    assert ((lists.decision_function(TEXTS) >= 0) == (p >= 0.5)).all()
    matrix = model.fit(TEXTS, MATRIX)
    assert (matrix.predict_proba(TEXTS) == p).all() and matrix.predict(TEXTS).dtype == int
    assert matrix.score(TEXTS, MATRIX) == sk.accuracy_score(MATRIX, matrix.predict(TEXTS)) == lists.score(TEXTS, MATRIX)
    assert 0 <= sk.f1_score(MATRIX, matrix.predict(TEXTS), average="micro") <= 1
    assert matrix.best_score_ == [each for each in matrix.history_ if each["best"]][-1]["f1_macro"]


def test_thresholds_are_one_number_or_each_labels_best(model):
    assert model.set_params(threshold=0.3).fit(TEXTS, MATRIX).thresholds_ == [0.3] * 3
    best = model.set_params(threshold="max-f1").fit(TEXTS, MATRIX)
    assert len(set(best.thresholds_)) > 1
    assert (best.predict(TEXTS) == (best.predict_proba(TEXTS) >= best.thresholds_)).all()
    with pytest.raises(InputError, match="class_weight as a dict needs one label"):
        model.set_params(class_weight={0: 2.0}).fit(TEXTS, MATRIX)


def test_a_row_that_weighs_two_counts_as_two(model):
    kept = np.arange(60) % 3 > 0
    found = read_training_rows(TEXTS, SETS, kept.astype(float))
    assert found.texts == [text for text, own in zip(TEXTS, kept, strict=True) if own]
    assert (found.targets == MATRIX[kept]).all() and (found.weights == 1).all() and found.label_form == "lists"
    model.set_params(validation_fraction=0, epochs=1)
    heavy = model.fit(TEXTS, MATRIX, sample_weight=[3.0] * 60).predict_proba(TEXTS)
    assert heavy == pytest.approx(model.fit(TEXTS, MATRIX).predict_proba(TEXTS))
    other = model.fit(TEXTS, MATRIX, sample_weight=1 + 9 * kept).predict_proba(TEXTS)
    assert np.abs(other - heavy).max() > 1e-4


@pytest.mark.parametrize("y", [SETS, pd.DataFrame(MATRIX, columns=sorted(LABELS))], ids=["lists", "frame"])
def test_what_is_saved_is_loaded(model, tmp_path, y):
    fitted = model.fit(TEXTS, y)
    fitted.save(tmp_path / "saved")
    loaded = finetune.TextClassifier.load(tmp_path / "saved")
    assert loaded.label_form_ == fitted.label_form_ and loaded.classes_.tolist() == fitted.classes_.tolist()
    assert np.abs(loaded.predict_proba(TEXTS) - fitted.predict_proba(TEXTS)).max() < 1e-6
    assert (
        np.array_equal(loaded.predict(TEXTS), fitted.predict(TEXTS))
        if y is not SETS
        else loaded.predict(TEXTS) == fitted.predict(TEXTS)
    )
    from transformers import AutoConfig

    assert AutoConfig.from_pretrained(tmp_path / "saved").problem_type == "multi_label_classification"


def test_scikit_learn_scores_it_over_folds(model):
    found = cross_val_score(model.set_params(epochs=1), np.array(TEXTS, dtype=object), MATRIX, cv=2, scoring="f1_micro")
    assert found.shape == (2,) and np.isfinite(found).all()
