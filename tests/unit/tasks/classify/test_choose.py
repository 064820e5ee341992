"""``evaluate.choose = best``: the winner's figures are its own, and validation rows alone choose it."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from finetune.evaluation.baseline import fit_tfidf
from finetune.evaluation.results import Start, StartWeights
from finetune.recipe import Recipe
from finetune.tables.splits import normalise_text
from finetune.tasks.classify import choose, seeds
from finetune.tasks.classify.choose import score_best
from finetune.tasks.classify.score import TFIDF, ClassifierEvaluation, score_classifier, verdict

SIZES = {"train": 60, "val": 30, "test": 30}
WEIGHTS = StartWeights(name="mini", source="here", licence="MIT", sha256={}, fallback=False, note="")


def given(right: dict[str, float], words: float = 1.0) -> dict:
    """Arguments of ``score_classifier``. right: the share of val and test rows that the model gets right, of each;
    words: the share of all rows whose words are of their label."""
    draw, texts, targets, logits = np.random.default_rng(3), {}, {}, {}
    for split, n in SIZES.items():
        y = np.arange(n) % 2
        of = np.where(draw.random(n) < words, y, 1 - y)
        texts[split] = [f"{('lunch at home', 'win cash now')[own]} {split} {'x' * at}" for at, own in enumerate(of)]
        targets[split] = y
        if split != "train":
            called = np.where(np.arange(n) < round(right[split] * n), y, 1 - y)
            logits[split] = np.where(np.arange(2) == called[:, None], 2.0, -2.0) + draw.normal(size=(n, 2)) / 10
    return {
        "labels": ["ham", "spam"],
        "positive": 1,
        "aim": "half",
        "headline": "accuracy",
        "resamples": 100,
        "seed": 0,
        "texts": texts,
        "targets": targets,
        "logits": logits,
        "normalise": normalise_text,
        "start": Start("full", WEIGHTS),
    }


def test_a_model_that_is_ahead_on_validation_stays_whatever_the_test_says():
    arguments = given({"val": 1.0, "test": 0.5}, words=0.8)
    found, p, predicted, tfidf = score_best(**arguments)
    assert found.choice.winner == "model" and tfidf is None and found.model is None
    alone, p_alone, _ = score_classifier(**arguments)
    assert (p == p_alone).all() and found.metrics == alone.metrics and found.temperature == alone.temperature
    assert [own.name for own in found.baselines][:2] == [TFIDF, "the average of the model and TF-IDF"]
    assert {name: own.value for name, own in found.baselines[0].metrics.items()} == pytest.approx(
        {name: own.value for name, own in alone.baselines[0].metrics.items()}
    )
    assert "chosen on the 30 validation rows" in verdict(found)


def test_where_tf_idf_wins_the_figures_are_its_own_and_the_models_stand_beside_them():
    arguments = given({"val": 0.5, "test": 1.0})
    found, p, predicted, tfidf = score_best(**arguments)
    texts, y = arguments["texts"], arguments["targets"]
    fitted, _ = fit_tfidf(texts["train"], y["train"], texts["val"], y["val"], 2)
    wanted = fitted.probabilities(texts["test"])
    assert found.choice.winner == "tfidf" and found.temperature == 1.0
    assert p == pytest.approx(wanted, abs=1e-9) and (tfidf.probabilities(texts["test"]) == wanted).all()
    assert found.headline.value == accuracy_score(y["test"], wanted.argmax(1))
    assert found.metrics["log_loss"].value == pytest.approx(log_loss(y["test"], wanted))
    assert found.choice.validation["tfidf"].metric == accuracy_score(
        y["val"], fitted.probabilities(texts["val"]).argmax(1)
    )
    assert [own.name for own in found.baselines][0] == "the model"
    assert found.baselines[0].metrics["accuracy"].value == 1.0 == found.model.headline.value  # and yet not chosen
    said = verdict(found)
    assert f"This is {TFIDF}, chosen on the 30 validation rows" in said and "the model is better" not in said
    again = ClassifierEvaluation.from_json(found.to_json(), "here")
    assert again.model == found.model and again.choice == found.choice


def test_an_average_has_the_mean_of_both_log_probabilities(monkeypatch):
    original = choose.choose_winner
    monkeypatch.setattr(choose, "choose_winner", lambda values, *more: original({**values, "average": 2.0}, *more))
    arguments = given({"val": 0.8, "test": 0.8}, words=0.9)
    found, p, predicted, tfidf = score_best(**arguments)
    own = score_classifier(**arguments)[1]
    both = np.sqrt(own * tfidf.probabilities(arguments["texts"]["test"]))
    assert found.choice.winner == "average"
    assert p == pytest.approx(both / both.sum(axis=1, keepdims=True), abs=1e-9)
    assert [entry.name for entry in found.baselines][:2] == ["the model", TFIDF]


def test_seeds_are_of_the_model_even_where_another_won(monkeypatch, tmp_path):
    first = score_best(**given({"val": 0.5, "test": 1.0}))[0]
    assert first.choice.winner == "tfidf" and first.metrics != first.model.metrics
    monkeypatch.setattr(seeds, "_train", lambda *given: first.model.metrics)
    run = SimpleNamespace(path=lambda *names: tmp_path / "seeds")
    found = seeds.train_seeds(None, Recipe(evaluate={"seeds": 2}), run, first)
    assert found.metrics["log_loss"].by_seed == [first.model.metrics["log_loss"].value] * 2
