"""The whole evaluation, and the verdict's honesty."""

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from finetune.errors import RecipeError
from finetune.evaluation.aims import Rule, measure_decision
from finetune.evaluation.leakage import OverlapCounts
from finetune.evaluation.results import Difference, Headline, Metric, Start, StartWeights
from finetune.recipe import Recipe
from finetune.report.metric_text import metric_text, metric_value
from finetune.tasks.classify.score import (
    MAJORITY,
    TFIDF,
    Baseline,
    ClassifierEvaluation,
    CleanRows,
    Curves,
    curves,
    never_predicted,
    positive_label,
    score_classifier,
    verdict,
)

TWO = np.eye(2)
DECISION = measure_decision(
    Rule(aim="half", threshold=0.5), None, 1, np.arange(2), TWO, np.arange(2), TWO, np.ones(2, dtype=bool)
)
START = Start("full", StartWeights("mini", "bundled", "MIT", {}, fallback=False, note=""))


def fold(text):
    return " ".join(text.casefold().split())


def inputs(k=2, sizes=(120, 60, 90), seed=0, **changes):
    generator = np.random.default_rng(seed)
    targets = {split: np.arange(n) % k for split, n in zip(("train", "val", "test"), sizes, strict=True)}
    texts = {
        split: [f"word{label} {split} {i} {generator.integers(1e9)}" for i, label in enumerate(y)]
        for split, y in targets.items()
    }
    logits = {
        split: generator.normal(size=(len(targets[split]), k)) * 2 + 3 * np.eye(k)[targets[split]]
        for split in ("val", "test")
    }
    return {
        "labels": [f"label {c}" for c in range(k)],
        "positive": 1 if k == 2 else None,
        "aim": "half",
        "headline": "accuracy",
        "resamples": 100,
        "seed": 0,
        "texts": texts,
        "targets": targets,
        "logits": logits,
        "normalise": fold,
        "start": START,
    } | changes


@pytest.mark.parametrize("k", [2, 4])
def test_report_has_the_keys_of_eval_json_and_is_strict_json(k):
    report, probabilities, predicted = score_classifier(**inputs(k))
    written = report.to_json()
    assert {
        "schema_version",
        "headline",
        "metrics",
        "validation",
        "baselines",
        "labels",
        "positive",
        "per_class",
        "confusion_matrix",
        "clean",
        "overlap",
        "threshold",
        "temperature",
        "reliability",
        "curves",
    } <= set(written)
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert ClassifierEvaluation.from_json(written, "eval.json") == report
    assert written["headline"] == {"metric": "accuracy", **written["metrics"]["accuracy"], "split": "test"}
    assert [entry.name for entry in report.baselines] == [TFIDF, MAJORITY]
    y = np.arange(90) % k
    assert report.confusion_matrix == sk.confusion_matrix(y, predicted, labels=range(k)).tolist()
    assert probabilities.shape == (90, k) and report.clean.n == 90


def test_probabilities_are_scaled_by_the_temperature_of_validation_alone():
    given = inputs()
    report, probabilities, _ = score_classifier(**given)
    assert report.temperature != 1.0
    assert probabilities == pytest.approx(softmax(given["logits"]["test"] / report.temperature, axis=1))
    given["logits"]["test"] = given["logits"]["test"] * 5
    assert score_classifier(**given)[0].temperature == report.temperature


def test_max_f1_changes_the_threshold_and_the_predictions():
    given = inputs()
    given["logits"]["val"][:, 0] += 3
    given["logits"]["test"][:, 0] += 3
    half, max_f1 = score_classifier(**given), score_classifier(**given | {"aim": "max-f1"})
    assert half[0].threshold == 0.5 and max_f1[0].threshold < 0.5
    assert (max_f1[2] == np.where(max_f1[1][:, 1] >= max_f1[0].threshold, 1, 0)).all()
    assert max_f1[0].metrics["f1"].value > half[0].metrics["f1"].value


def test_the_majority_class_stays_the_majority_whatever_the_aim():
    given = inputs(aim="max-f1")
    for split, n in (("train", 120), ("val", 60), ("test", 90)):
        given["targets"][split] = (np.arange(n) % 4 == 0).astype(int)
    metrics = score_classifier(**given)[0].baselines[1].metrics
    assert metrics["recall"].value == 0.0
    assert metrics["accuracy"].value == pytest.approx(1 - given["targets"]["test"].mean())


def test_more_than_two_labels_have_no_threshold_and_no_positive_one():
    report, _, predicted = score_classifier(**inputs(3))
    assert report.threshold is None and report.positive is None and predicted.max() == 2
    assert "f1" not in report.metrics


def test_f1_as_headline_of_many_labels_raises():
    with pytest.raises(RecipeError, match="3 labels"):
        score_classifier(**inputs(3, headline="f1"))


def test_the_clean_part_leaves_out_texts_seen_elsewhere():
    given = inputs()
    given["texts"]["test"][:10] = [text.upper() for text in given["texts"]["train"][:10]]
    report, probabilities, predicted = score_classifier(**given)
    assert report.clean.n == 80 and report.overlap["test_in_train"] == OverlapCounts(0, 10, 90)
    y = np.arange(90) % 2
    assert report.clean.metrics["accuracy"].value == sk.accuracy_score(y[10:], predicted[10:])
    assert "10 of the 90 test texts also occur in the training or validation set" in verdict(report)


def test_the_clean_part_leaves_out_texts_of_the_validation_rows_too():
    given = inputs()
    given["texts"]["test"][:10] = given["texts"]["val"][:10]
    given["texts"]["test"][10:15] = given["texts"]["train"][:5]
    report, _, predicted = score_classifier(**given)
    assert report.clean.n == 75
    assert report.clean.metrics["accuracy"].value == sk.accuracy_score((np.arange(90) % 2)[15:], predicted[15:])


def test_a_label_that_is_never_predicted_is_said():
    confusion = np.array([[5, 1, 0, 0], [0, 7, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0]])
    [said] = never_predicted(["a", "b", "c", "absent"], confusion)
    assert "The model never predicted c (3 test rows)" in said and "train.class_weights=balanced" in said
    [said] = never_predicted(["a", "b"], np.array([[0, 4], [0, 1]]))
    assert "The model never predicted a (4 test rows)" in said
    assert never_predicted(["a", "b"], np.array([[0, 0], [1, 3]])) == []
    given = inputs()
    given["logits"]["test"] = given["logits"]["test"] * 0 + [9.0, 0.0]
    given["logits"]["val"] = given["logits"]["val"] * 0 + [9.0, 0.0]
    assert "The model never predicted label 1 (45 test rows)" in verdict(score_classifier(**given)[0])


def test_no_test_rows_and_no_validation_rows_still_give_a_report():
    report, probabilities, _ = score_classifier(**inputs(sizes=(40, 0, 0)))
    assert report.headline.value is None and probabilities.shape == (0, 2)
    assert "not defined" in verdict(report)
    json.dumps(report.to_json(), allow_nan=False)


def test_one_class_in_the_test_is_null_with_a_reason():
    given = inputs()
    given["targets"]["test"] = np.zeros(90, dtype=int)
    report, _, _ = score_classifier(**given)
    assert report.metrics["roc_auc"].value is None and report.curves.model is None


def test_thinned_curves_keep_their_area():
    generator = np.random.default_rng(0)
    y = generator.random(5000) < 0.2
    score = 1 / (1 + np.exp(-(2.0 * y + generator.normal(size=5000))))
    found = curves(y.astype(int), np.stack([1 - score, score], axis=1), 1)
    roc, pr = np.array(found.roc), np.array(found.pr)
    assert len(roc) <= 200 and len(pr) <= 200
    assert sk.auc(roc[:, 0], roc[:, 1]) == pytest.approx(sk.roc_auc_score(y, score), abs=0.005)
    assert sk.auc(pr[:, 0], pr[:, 1]) == pytest.approx(sk.average_precision_score(y, score), abs=0.01)


def test_macro_curve_has_the_mean_area_of_the_classes():
    given = inputs(4, sizes=(40, 40, 800))
    _, p, _ = score_classifier(**given)
    y = np.arange(800) % 4
    roc = np.array(curves(y, p, None).roc)
    assert sk.auc(roc[:, 0], roc[:, 1]) == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"), abs=0.005)
    assert curves(np.arange(44) % 11, np.full((44, 11), 1 / 11), None) is None


def test_macro_precision_is_the_highest_at_a_recall_or_above():
    """By definition, from every cut of every class; scores that overlap make the precision rise and fall."""
    generator = np.random.default_rng(3)
    y = np.arange(60) % 3
    p = softmax(generator.normal(size=(60, 3)) + np.eye(3)[y], axis=1)
    cuts = [
        [((y[p[:, c] >= cut] == c).sum() / (y == c).sum(), (y[p[:, c] >= cut] == c).mean()) for cut in p[:, c]]
        for c in range(3)
    ]
    for recall, precision in curves(y, p, None).pr:
        best = [max(of for reached, of in own if reached >= recall - 1e-9) for own in cuts]
        assert precision == pytest.approx(np.mean(best), abs=1e-5)


def entry(name, value, difference, p, low=None, high=None):
    own = Metric(value, 0.9, 0.99, 1115)
    return Baseline(
        name=name,
        metrics={"accuracy": own, "f1": own},
        p_value=p,
        test="exact McNemar",
        difference=Difference(difference, low, high, 1115, metric="accuracy"),
        threshold=0.5,
        note="",
        seconds=0.0,
    )


def evaluation(value=0.987, metric="accuracy", baselines=(), low=0.978, high=0.992, n=1115):
    own = Metric(value, low, high, n)
    return ClassifierEvaluation(
        schema_version=1,
        task="classify",
        method="full",
        weights=START.weights,
        seconds=1.0,
        headline=Headline(**vars(own), metric=metric, split="test"),
        metrics={metric: own},
        validation={},
        baselines=list(baselines),
        labels=["ham", "spam"],
        positive="spam",
        confusion_matrix=[[1, 0], [0, 1]],
        per_class=[],
        clean=CleanRows({metric: own}, n),
        overlap={},
        threshold=0.5,
        aim="half",
        temperature=1.0,
        reliability=[],
        curves=Curves(None, None, TFIDF),
        decision=DECISION,
    )


def test_verdict_calls_a_difference_within_noise_noise():
    said = verdict(evaluation(baselines=[entry(TFIDF, 0.989, -0.002, 0.75)]))
    assert said == (
        "Accuracy 98.7 % (97.8 to 99.2; n = 1,115). TF-IDF + logistic regression on the same split: "
        "98.9 %; the difference of 0.2 points is within noise (McNemar p = 0.75)."
    )


def test_verdict_leaves_open_what_its_two_tests_see_differently():
    said = verdict(evaluation(0.9, baselines=[entry(MAJORITY, 0.73, 0.172, 0.07, 0.021, 0.323)]))
    assert (
        "within noise" not in said
        and (
            "it is unclear whether the difference of 17.2 points is more than noise (McNemar p = 0.07, but 95 % interval of the "
            "difference +2.1 to +32.3 points)."
        )
        in said
    )


def test_verdict_says_plainly_who_wins():
    assert "the baseline is better by 3.0 points (McNemar p = 0.001)" in verdict(
        evaluation(0.95, baselines=[entry(TFIDF, 0.98, -0.03, 0.001)])
    )
    assert "the model is better by 3.0 points (McNemar p < 0.0001)" in verdict(
        evaluation(0.98, baselines=[entry(TFIDF, 0.95, 0.03, 1e-9)])
    )
    assert "no difference" in verdict(evaluation(baselines=[entry(TFIDF, 0.987, 0.0, 1.0)]))


def test_verdict_names_the_majority_class_only_where_it_is_not_beaten():
    beaten, not_beaten = entry(MAJORITY, 0.87, 0.117, 1e-20), entry(MAJORITY, 0.98, 0.007, 0.3)
    assert MAJORITY not in verdict(evaluation(baselines=[beaten])).lower()
    assert ". Majority class on the same split: 98.0 %" in verdict(evaluation(baselines=[not_beaten]))


def test_verdict_on_another_metric_goes_by_its_own_interval():
    noise = evaluation(metric="f1", baselines=[entry(TFIDF, 0.97, 0.017, 1e-9, -0.001, 0.04)])
    real = evaluation(metric="f1", baselines=[entry(TFIDF, 0.97, 0.017, 1e-9, 0.002, 0.04)])
    assert verdict(noise).startswith("F1 of spam 98.7 %") and "within noise" in verdict(noise)
    assert "the model is better" in verdict(real) and "McNemar" not in verdict(real)


def test_a_metric_in_words_has_its_unit_or_the_reason_why_not():
    entry = Metric(0.9868, 0.978, 0.9921, 1115)
    assert metric_text(entry, "f1") == "98.7 % (97.8 to 99.2; n = 1,115)"
    assert metric_text(entry, "roc_auc") == "0.987 (0.978 to 0.992; n = 1,115)"
    undefined = Metric(None, None, None, 3, "only one class in the 3 rows")
    assert metric_text(undefined, "roc_auc") == "not defined (only one class in the 3 rows)"


@pytest.mark.parametrize(
    "name, value, shown",
    [
        ("accuracy", 1.0, "100.0 %"),
        ("accuracy", 0.9995, "99.95 %"),
        ("accuracy", 0.999999, "99.99 %"),
        ("accuracy", 0.9994, "99.9 %"),
        ("accuracy", 0.0, "0.0 %"),
        ("chrf", 99.9986, "99.99"),
        ("chrf", 100.0, "100.0"),
    ],
)
def test_only_exactly_all_is_shown_as_100_percent(name, value, shown):
    assert metric_value(name, value) == shown


def test_verdict_warns_of_a_wide_interval():
    assert "30 points wide" in verdict(evaluation(low=0.7, high=1.0, n=20))


def test_the_aim_decides_and_says_what_it_can_promise():
    given = inputs(aim="precision:0.9")
    report, p, predicted = score_classifier(**given)
    rule, promise = report.decision.rule, report.decision.promise
    assert report.threshold == rule.threshold and report.aim == rule.aim == "precision:0.9"
    assert (predicted == (p[:, 1] >= rule.threshold)).all()
    assert promise.of == "precision" and promise.n == (predicted == 1).sum() and promise.needed == 22
    y = np.arange(90) % 2
    assert promise.value == pytest.approx(sk.precision_score(y, predicted))
    assert promise.bound < promise.value
    assert report.decision.test["precision"].value == report.metrics["precision"].value


def test_the_cost_of_three_labels_is_measured():
    costs = [[0.0, 5.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    report, p, predicted = score_classifier(**inputs(3, aim="cost", costs=costs))
    assert (predicted == (p @ np.array(costs)).argmin(axis=1)).all()
    paid = np.array(costs)[np.arange(90) % 3, predicted]
    assert report.decision.test["cost"].value == pytest.approx(paid.mean())
    assert report.decision.promise.bound > paid.mean() and report.decision.base_rates == []


@pytest.mark.parametrize(
    ("settings", "labels", "words"),
    [
        ({"aim": "precision:0.9"}, ["a", "b", "c"], "evaluate.aim=precision:0.9 needs exactly two labels"),
        ({"aim": "cost"}, ["a", "b"], "need each other; got aim cost, no costs"),
        ({"costs": [[0, 1], [1, 0]]}, ["a", "b"], "need each other; got aim half, costs"),
        ({"aim": "cost", "costs": [[0, 1], [1, 0]]}, ["a", "b", "c"], "2 rows for 3 labels"),
        ({"aim": "abstain:0.1"}, ["abstain", "b"], "is a label of this data"),
    ],
)
def test_an_aim_that_does_not_suit_the_labels_is_refused(settings, labels, words):
    with pytest.raises(RecipeError, match=words):
        positive_label(Recipe(evaluate=settings), labels)
