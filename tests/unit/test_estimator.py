"""TextClassifier: what goes in, what comes out, and its place among scikit-learn's tools."""

import copy
import dataclasses
import json

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import finetune
from finetune.checkpoints.own_layout import write_own
from finetune.errors import FinetuneError, WeightsError
from finetune.estimator import TextClassifier
from finetune.files import write_manifest
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.tasks.classify.bundle import Bundle
from finetune.tokenizer import Tokenizer

WORDS = {"spam": ["win", "cash", "prize", "claim"], "ham": ["lunch", "home", "mum", "later"]}
RANDOM = np.random.default_rng(0)
KINDS = ["spam", "ham"] * 20
TEXTS = [" ".join(RANDOM.choice(WORDS[kind], 1 + i % 3)) + " abc"[i % 4] for i, kind in enumerate(KINDS)]


@pytest.fixture(scope="module")
def make(tiny):
    """``make(name=value, ...)``: an estimator that is quick."""
    return lambda **more: TextClassifier(**{"weights": tiny, "epochs": 2, "lr": 2e-2, "batch_size": 8} | more)


@pytest.fixture(scope="module")
def fitted(make):
    return make(validation_fraction=0.2).fit(TEXTS, KINDS)


def test_it_learns_and_its_probabilities_are_transformers_at_the_temperature(fitted, tmp_path):
    from transformers import GPT2ForSequenceClassification

    assert finetune.TextClassifier is TextClassifier and fitted.score(TEXTS, KINDS) > 0.9
    assert fitted.classes_.tolist() == ["ham", "spam"] and fitted.settings_.method == "full"
    warm = copy.copy(fitted)
    warm.bundle_ = dataclasses.replace(fitted.bundle_, temperature=1.7)
    model = GPT2ForSequenceClassification.from_pretrained(warm.save(tmp_path / "bundle")).eval()
    tokenizer = Tokenizer.from_directory(tmp_path / "bundle")
    with torch.no_grad():
        logits = torch.cat([model(torch.tensor([tokenizer.encode(text)])).logits for text in TEXTS[:9]])
    theirs = torch.softmax(logits.double() / 1.7, -1).numpy()
    for estimator in (warm, TextClassifier.load(tmp_path / "bundle")):
        np.testing.assert_allclose(estimator.predict_proba(TEXTS[:9]), theirs, atol=1e-5)
    assert warm.predict(TEXTS[:9]).tolist() == [["ham", "spam"][row] for row in theirs.argmax(1)]


def test_the_temperature_is_fitted_on_rows_that_were_held_out(make, monkeypatch):
    from finetune.tasks.classify import fine_tune

    seen = []
    monkeypatch.setattr(fine_tune, "fit_temperature", lambda logits, y, weights: seen.append(len(y)) or 2.0)
    clf = make(validation_fraction=0.25).fit(TEXTS, KINDS)
    assert seen[0] == pytest.approx(10, abs=2) and clf.bundle_.temperature == 2.0
    few = make(epochs=1).fit(["win", "home", "cash"], [1, 0, 1])
    assert seen[1] == 0 and few.predict_proba(["win"]).shape == (1, 2)


@pytest.mark.parametrize(
    "labels",
    [
        KINDS,
        [3 if kind == "spam" else -12 for kind in KINDS],
        [kind == "spam" for kind in KINDS],
        [float(kind == "spam") for kind in KINDS],
        pd.Series(KINDS),
        pd.Series(KINDS, dtype="category"),
        pd.Series([int(kind == "spam") for kind in KINDS], dtype="Int64"),
        np.array(KINDS, dtype=object),
    ],
)
def test_labels_keep_their_type_through_a_file(make, labels, tmp_path):
    clf = make(epochs=1).fit(TEXTS, labels)
    again = TextClassifier.load(clf.save(tmp_path / "bundle"))
    values = np.unique(np.asarray(labels)).tolist()
    for estimator in (clf, again):
        assert estimator.classes_.tolist() == values
        assert {type(label) for label in estimator.predict(TEXTS).tolist()} == {type(values[0])}
    assert np.array_equal(clf.predict_proba(TEXTS), again.predict_proba(TEXTS))
    assert again.get_params() == clf.get_params() | {"weights": str(clf.weights)}


@pytest.mark.parametrize(
    "kind",
    [
        tuple,
        np.array,
        lambda x: np.array(x, dtype=object),
        pd.Series,
        lambda x: pd.DataFrame({"text": x}),
        lambda x: np.array(x)[:, None],
        lambda x: datasets.Dataset.from_dict({"text": x})["text"],
        lambda x: datasets.Dataset.from_dict({"text": x}),
    ],
)
def test_every_container_gives_what_a_list_gives(make, fitted, kind):
    assert np.array_equal(fitted.predict_proba(kind(TEXTS[:5])), fitted.predict_proba(TEXTS[:5]))
    assert np.array_equal(
        make(validation_fraction=0.2).fit(kind(TEXTS), KINDS).predict_proba(TEXTS), fitted.predict_proba(TEXTS)
    )


def test_columns_are_joined_as_the_readers_do(make, fitted):
    years = pd.Series([7, None] * 20, dtype=object)
    frame = pd.DataFrame({"title": TEXTS, "body": ["later", None] * 20, "year": years})
    joined = [f"{text}\nlater\n7" if i % 2 == 0 else text for i, text in enumerate(TEXTS)]
    clf = make(validation_fraction=0.2).fit(frame, KINDS)
    assert clf.feature_names_in_.tolist() == ["title", "body", "year"] and clf.n_features_in_ == 3
    assert np.array_equal(clf.predict_proba(frame), clf.predict_proba(joined))
    with pytest.raises(ValueError, match="columns differ from those in fit; got body, title; known: title, body, year"):
        clf.predict(frame[["body", "title"]])
    assert not hasattr(clf.fit(TEXTS, KINDS), "n_features_in_")
    assert np.array_equal(clf.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


def test_a_fit_repeats_itself_and_leaves_nothing_behind(make, fitted, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    clf = make(validation_fraction=0.2)
    first = clf.fit(TEXTS, KINDS).predict_proba(TEXTS)
    assert np.array_equal(first, fitted.predict_proba(TEXTS)) and not list(tmp_path.iterdir())
    assert not np.array_equal(first, clone(clf).set_params(random_state=7).fit(TEXTS, KINDS).predict_proba(TEXTS))
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr() == ("", "")
    clone(clf).set_params(verbose=True).fit(TEXTS, KINDS)
    assert "parameters are trained" in capsys.readouterr().out
    drawn = [clone(clf).set_params(random_state=np.random.RandomState(5)).fit(TEXTS, KINDS) for _ in range(2)]
    assert np.array_equal(drawn[0].predict_proba(TEXTS), drawn[1].predict_proba(TEXTS))


def test_settings_reach_the_training(make):
    clf = make(
        method="lora",
        epochs=1,
        settings={"lora_rank": np.int64(2)},
        class_weight="balanced",
        max_length=4,
        lr=np.float64(0.01),
    ).fit(TEXTS, KINDS)
    assert (clf.settings_.lora_rank, clf.settings_.epochs, clf.settings_.class_weights) == (2, 1, "balanced")
    assert not any("lora" in name for name, _ in clf.bundle_.model.named_parameters())  # merged
    assert np.array_equal(clf.predict_proba(["win cash"]), clf.predict_proba(["win you"]))


def test_in_a_pipeline_a_search_and_a_cross_validation(make):
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipe = make_pipeline(lower, make()).fit([text.upper() for text in TEXTS], KINDS)
    assert np.array_equal(pipe.predict_proba(TEXTS), pipe.predict_proba([text.upper() for text in TEXTS]))
    scores = cross_val_score(make(), pd.Series(TEXTS, index=range(100, 140)), KINDS, cv=2)
    assert scores.shape == (2,) and scores.mean() > 0.7
    search = GridSearchCV(
        make(), {"lr": np.array([1e-9, 1e-2]), "batch_size": np.array([8])}, cv=2, scoring="neg_log_loss"
    ).fit(np.array(TEXTS, dtype=object), KINDS)
    assert search.best_params_["lr"] == 1e-2 and set(search.predict(TEXTS)) == {"ham", "spam"}


def test_a_bundle_is_read_by_the_command_and_a_bundle_of_another_maker_by_load(fitted, tmp_path, tiny):
    path = fitted.save(tmp_path / "bundle")
    labels, probabilities = Bundle.load(path).predict(TEXTS)
    assert labels == fitted.predict(TEXTS).tolist()
    assert np.array_equal(probabilities, fitted.predict_proba(TEXTS))
    card = json.loads((path / "bundle.json").read_text())
    assert card["weights"]["name"] == tiny.name and len(card["data_sha256"]) == 64
    del card["estimator"]
    (path / "bundle.json").write_text(json.dumps(card))
    write_manifest(path)
    assert TextClassifier.load(path).predict(TEXTS).tolist() == labels
    for broken in ({"parameters": {"x": 1}}, {"dtype": "<M8"}, {"classes": ["a"]}, {"classes": [[1], [2, 3]]}):
        own = {"parameters": {}, "classes": ["a", "b"], "dtype": "|O", "columns": []} | broken
        (path / "bundle.json").write_text(json.dumps(card | {"estimator": own}))
        write_manifest(path)
        with pytest.raises(WeightsError, match="not written by TextClassifier.save"):
            TextClassifier.load(path)
    assert fitted.save(path) == path and "estimator" in json.loads((path / "bundle.json").read_text())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="exists and is not a bundle"):
        fitted.save(tmp_path / "mine")


@pytest.mark.parametrize(
    "X, y, words",
    [
        ("one text", ["a"], "a single value instead of a collection of texts"),
        (None, [1, 2], "a single value instead of a collection of"),
        ([], [], "there are no texts"),
        ([1, 2], [0, 1], "these values are not texts; got int 1"),
        (np.ones((2, 3)), [0, 1], "these values are not texts"),
        (["a", " "], [0, 1], "text 1 is empty; got 1 of 2"),
        (["a", None], [0, 1], "text 1 is empty"),
        ([["a", "b"], ["c"]], [0, 1], "rows of different shapes"),
        ({"a": 1}, [0], "a single value instead of a collection of"),
        (np.full((2, 1, 1), "a"), [0, 1], "rows of different shapes"),
        (["a", "b"], [0], "fit needs at least two classes"),
        (["a", "b"], [0, 1, 1], "different lengths; got 2 texts, 3 labels"),
        (["a", "b"], None, "requires y to be passed"),
        (["a", "b"], ["x", None], "1 missing label, the first in row 1"),
        (["a", "b"], ["x", float("nan")], "missing label"),
        (["a", "b"], ["x", 1], "several types; got int, str"),
        (["a", "b"], [0.5, 0.7], "Unknown label type"),
        (["a", "b"], np.array([[0, 2], [1, 0]]), "1d array"),
        (["a", "b"], np.array(["2020", "2021"], "M8"), "unsupported label type"),
    ],
)
def test_what_cannot_be_learned_is_a_value_error_with_an_explanation(make, X, y, words):
    with pytest.raises(ValueError, match=words):
        make().fit(X, y)


@pytest.mark.parametrize(
    "parameters, words",
    [
        ({"epochs": 0}, "train.epochs: .*greater"),
        ({"method": "lara"}, "train.method"),
        ({"validation_fraction": 1}, "split.val_fraction"),
        ({"settings": {"ephocs": 2}}, "unknown key 'train.ephocs'"),
        ({"settings": {"lora_rank": 2}, "method": "full"}, "lora_rank is used only by method lora"),
        ({"random_state": "x"}, "cannot be used to seed"),
    ],
)
def test_a_parameter_that_cannot_be_is_a_value_error(make, parameters, words):
    with pytest.raises(ValueError, match=words):
        make(**parameters).fit(TEXTS, KINDS)


def test_before_fit_there_is_no_prediction(make):
    for call in (make().predict, make().predict_proba):
        with pytest.raises(NotFittedError, match="not fitted yet") as caught:
            call(["a"])
        assert isinstance(caught.value, FinetuneError)


def test_weights_of_another_model_are_refused(make, tmp_path):
    tokenizer = Tokenizer.of_bytes()
    config = EncoderDecoderConfig(vocab_size=tokenizer.vocab_size, context=16, width=16, layers=1, heads=2)
    write_own(tmp_path / "model", EncoderDecoder(config).initialise(0), tokenizer)
    with pytest.raises(WeightsError, match="an encoder-decoder's weights"):
        make(weights=tmp_path / "model").fit(TEXTS, KINDS)
