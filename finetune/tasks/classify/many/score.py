"""The evaluation of a classifier with many labels per row: the content of its eval.json."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from finetune.evaluation.baseline import tfidf_one_vs_rest
from finetune.evaluation.intervals import mcnemar
from finetune.evaluation.label_sets import (
    LabelScores,
    choose_thresholds,
    label_set_difference,
    label_set_metrics,
    per_label,
    set_probability,
    sigmoid,
)
from finetune.evaluation.leakage import clean_rows, overlap
from finetune.evaluation.results import Headline, Metric, Start
from finetune.tables.label_sets import join_decided
from finetune.tasks.classify.score import (
    MOST_FREQUENT,
    TFIDF,
    Baseline,
    CleanMetrics,
    CleanRows,
    LabelledEvaluation,
    Scored,
)

HEADLINES = ("f1_micro", "f1_macro", "subset_accuracy")


@dataclass(frozen=True, kw_only=True)
class ManyEvaluation(LabelledEvaluation):
    """The content of the eval.json of a classifier with many labels per row."""

    per_label: list[LabelScores]
    labels_per_row: float  # mean over the test rows
    predicted_per_row: float
    rows_by_labels: dict[str, int]  # number of labels -> test rows
    rows_by_predicted: dict[str, int]


def score_many(
    *,
    labels: list[str],
    aim: str,
    headline: str,
    resamples: int,
    seed: int,
    texts: dict[str, list[str]],
    targets: dict[str, np.ndarray],
    logits: dict[str, np.ndarray],
    normalise: Callable[[str], str],
    start: Start,
) -> Scored[ManyEvaluation]:
    """The evaluation, and the test rows' predictions.

    `aim`: half or max-f1; `headline`: one of HEADLINES. `texts` and `targets` (bool (n, K)) have the keys
    train, val and test, `logits` (n, K) val and test. The thresholds are chosen on val alone.
    """
    y_val, y_test = targets["val"], targets["test"]
    p_val, p_test = (sigmoid(logits[split]) for split in ("val", "test"))
    thresholds = choose_thresholds(y_val, p_val, aim)
    predicted = p_test >= thresholds

    def measure(y: np.ndarray, decisions: np.ndarray, probabilities: np.ndarray) -> dict[str, Metric]:
        return label_set_metrics(y, decisions, probabilities, resamples, seed)

    clean = clean_rows(texts["train"] + texts["val"], texts["test"], normalise)

    def against(name: str, decisions: np.ndarray, probabilities: np.ndarray, note: str, seconds: float) -> Baseline:
        return Baseline(
            name=name,
            metrics=measure(y_test, decisions, probabilities),
            test="exact McNemar",
            p_value=mcnemar((predicted == y_test).all(axis=1), (decisions == y_test).all(axis=1)),
            difference=label_set_difference(headline, y_test, predicted, decisions, resamples, seed),
            threshold=None,
            note=note,
            seconds=seconds,
            clean=None if clean.all() else CleanMetrics(measure(y_test[clean], decisions[clean], probabilities[clean])),
        )

    p_tfidf, note, seconds = tfidf_one_vs_rest(
        texts["train"], targets["train"], texts["val"], y_val, texts["val"] + texts["test"]
    )
    of_tfidf = choose_thresholds(y_val, p_tfidf[: len(y_val)], aim)
    sets, counts = np.unique(targets["train"], axis=0, return_counts=True)
    usual = np.tile(sets[counts.argmax()], (len(y_test), 1))
    shares = np.tile(targets["train"].mean(axis=0), (len(y_test), 1))
    metrics = measure(y_test, predicted, p_test)
    evaluation = ManyEvaluation(
        schema_version=1,
        task="classify",
        method=start.method,
        weights=start.weights,
        seconds=0.0,
        headline=Headline(**vars(metrics[headline]), metric=headline, split="test"),
        metrics=metrics,
        validation=measure(y_val, p_val >= thresholds, p_val),
        baselines=[
            against(TFIDF, p_tfidf[len(y_val) :] >= of_tfidf, p_tfidf[len(y_val) :], note, seconds),
            against(MOST_FREQUENT, usual, shares, "the labels that most training rows have, for every row", 0.0),
        ],
        labels=labels,
        positive=None,
        clean=CleanRows(
            metrics if clean.all() else measure(y_test[clean], predicted[clean], p_test[clean]), int(clean.sum())
        ),
        overlap=overlap(texts, normalise),
        threshold=None,
        thresholds=thresholds.tolist(),
        aim=aim,
        temperature=1.0,
        per_label=per_label(y_test, predicted, labels, thresholds),
        labels_per_row=float(y_test.sum(axis=1).mean()),
        predicted_per_row=float(predicted.sum(axis=1).mean()),
        rows_by_labels=_by_count(y_test),
        rows_by_predicted=_by_count(predicted),
    )
    return Scored(evaluation, join_decided(labels, predicted), set_probability(p_test, predicted), p_test)


def _by_count(decided: np.ndarray) -> dict[str, int]:
    """Number of labels -> number of rows that have as many."""
    found = Counter(decided.sum(axis=1).astype(int).tolist())
    return {str(count): found[count] for count in sorted(found)}
