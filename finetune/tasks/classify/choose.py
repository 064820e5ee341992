"""``evaluate.choose = best``: score the model, TF-IDF and their average, and let validation rows choose the winner."""

from dataclasses import replace
from typing import Any

import numpy as np

from finetune.evaluation.aims import choose_rule
from finetune.evaluation.baseline import fit_tfidf
from finetune.evaluation.calibration import fit_temperature
from finetune.evaluation.choice import AVERAGE, FLOOR, MODEL, TFIDF, Choice, average_logs, choose_winner
from finetune.evaluation.metrics import DecisionCounts
from finetune.evaluation.tfidf import TfidfModel
from finetune.machine import timed
from finetune.tasks.classify.score import CANDIDATES, ClassifierEvaluation, Rival, score_classifier

SPLITS = ("val", "test")


def score_best(**given: Any) -> tuple[ClassifierEvaluation, np.ndarray, np.ndarray, TfidfModel | None]:
    """The winner's evaluation with the model's inside, as ``score_classifier``, and TF-IDF unless the model won.

    given: the arguments of ``score_classifier``. If TF-IDF cannot be fitted, the model is the only candidate.
    """
    from scipy.special import log_softmax

    texts, k = given["texts"], len(given["labels"])
    targets = {split: np.asarray(y, dtype=int) for split, y in given["targets"].items()}
    with timed() as seconds:
        tfidf, note = fit_tfidf(texts["train"], targets["train"], texts["val"], targets["val"], k)
        if tfidf is None:
            return *score_classifier(**given), None
        counted = {split: np.log(np.maximum(tfidf.probabilities(texts[split]), FLOOR)) for split in SPLITS}
        spent = seconds()
    temperature = fit_temperature(given["logits"]["val"], targets["val"])
    own = {split: log_softmax(np.asarray(given["logits"][split], float) / temperature, axis=1) for split in SPLITS}
    both = {split: average_logs(own[split], counted[split]) for split in SPLITS}
    logs = {MODEL: own, TFIDF: counted, AVERAGE: both}
    notes = {MODEL: "", TFIDF: note, AVERAGE: "the mean of their log-probabilities, normalised"}
    rivals = {
        name: Rival(CANDIDATES[name], np.exp(part["val"]), np.exp(part["test"]), notes[name], spent * (name != MODEL))
        for name, part in logs.items()
    }

    choice = _choose(given, {name: part["val"] for name, part in logs.items()}, targets["val"])
    alone = score_classifier(**given, temperature=temperature, rivals=[rivals[TFIDF], rivals[AVERAGE]])
    if choice.winner == MODEL:
        return replace(alone[0], choice=choice), *alone[1:], None
    others = [rivals[name] for name in (MODEL, TFIDF, AVERAGE) if name != choice.winner]
    found = score_classifier(**{**given, "logits": logs[choice.winner]}, temperature=1.0, rivals=others)
    return replace(found[0], choice=choice, model=alone[0]), *found[1:], tfidf


def _choose(given: dict[str, Any], logs: dict[str, np.ndarray], y: np.ndarray) -> Choice:
    """The winner by the headline metric on validation, each candidate under the decision rule chosen for it."""
    metric, positive, k, values = given["headline"], given["positive"], len(given["labels"]), {}
    for name, own in logs.items():
        rule = choose_rule(given["aim"], given.get("costs"), y, np.exp(own), positive)
        counts = DecisionCounts(y, rule.predict(np.exp(own), positive), k)
        values[name] = float(counts.scores(np.ones((1, len(y))), positive)[metric][0])
    return choose_winner(values, logs, y, metric)
