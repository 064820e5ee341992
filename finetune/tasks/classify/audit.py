"""The search for wrong labels in a run's rows: its cost, label_audit.json and label_suspects.csv."""

from collections import Counter

import numpy as np
import torch

from finetune.console import say
from finetune.errors import listed
from finetune.evaluation.baseline import tfidf_features
from finetune.evaluation.label_audit import (
    Audited,
    Features,
    LabelAudit,
    Suspect,
    counts_text,
    judged_rows,
    measure_search,
    planted_text,
    search,
)
from finetune.files import atomic_write, read_json, write_json
from finetune.machine import timed
from finetune.models.heads import Classifier, Reader
from finetune.recipe import Recipe
from finetune.records import TrainResult
from finetune.run import Run
from finetune.tables.cells import escape_formula, table_writer
from finetune.tables.codes import BY_NAME
from finetune.tables.splits import SPLITS, number_groups, text_keys
from finetune.tasks.base import read_records
from finetune.tasks.classify.data import LabelledRow
from finetune.tasks.classify.labelled import ClassifyPrepared, run_examples
from finetune.tasks.classify.score import TFIDF
from finetune.tasks.classify.task import labelled_task
from finetune.tasks.setup import base_weights
from finetune.training.batching import padded_tokens
from finetune.training.precision import device_type
from finetune.training.predict import PREDICT_TOKENS, predict_logits
from finetune.training.ranks import call_others
from finetune.training.sharing import together
from finetune.training.trial import second_time

CHECK = BY_NAME["label_suspects"]
MOST_OF_TRAINING = 1 / 8  # share of the training's work up to which a pass over all texts needs no request
TFIDF_FEATURES, STATES = "TF-IDF", "hidden states of the starting weights"
COLUMNS = ("row", "split", "label", "suggested", "drop", "quality", "text")
_TIMED = 32  # texts whose hidden states are timed
_FITS = 4.0  # multiple of the TF-IDF baseline's seconds: folds and planted folds, without the choice of C
_WORST = 20  # suspects that the report shows


def against(recipe: Recipe) -> str:
    """Why a run of these settings has no search for wrong labels; "" if it has one."""
    if recipe.task != "classify":
        return f"the search for wrong labels needs labelled texts, not the rows of the task {recipe.task}"
    if recipe.classify.labels == "many":
        return "the search for wrong labels needs one label per row"
    if recipe.classify.audit == "off" or CHECK.code in recipe.ignore:
        return "switched off by " + ("classify.audit" if recipe.classify.audit == "off" else f"ignore={CHECK.code}")
    return ""


def audit_run(recipe: Recipe, run: Run) -> Audited:
    """Search for wrong labels with the features that `classify.audit` selects."""
    if why := against(recipe):
        say(f"  left out: {why}")
        return Audited(None, why)
    names = [TFIDF_FEATURES, STATES]
    if recipe.classify.audit == "auto" and not reads_again(run):
        names.remove(STATES)
        say(f"  without {STATES}: reading all texts again would take more than an eighth of the training's work")
    say(f"  features: {listed(names)}")
    found = write_audit(recipe, run, names)
    for line in (counts_text(found), planted_text(found)):
        say(f"  {line}")
    return Audited(sum(found.suspects.values()))


def reads_again(run: Run) -> bool:
    """Whether one more pass over all texts costs little compared to training, in tokens and thus independent of the load.

    A step costs three forward passes of its tokens; if only upper blocks are trained, the others ran once per text.
    """
    trained = run.result("train", TrainResult)
    parts = {name: sum(part.beginnings().ids.lengths()) for name, part in run_examples(run).items()}
    steps = 3.0 * trained.tokens
    through_all = trained.method in ("full", "lora")
    work = steps if through_all else steps * trained.trainable.share + parts["train"] + parts["val"]
    return sum(parts.values()) <= MOST_OF_TRAINING * work


def expected_seconds(recipe: Recipe, run: Run) -> dict[str, float]:
    """Estimated seconds for each kind of feature, from the baseline's time and from the states of a few texts."""
    evaluation = labelled_task(recipe).model_evaluation(run)
    baseline = next(entry.seconds for entry in evaluation.baselines if entry.name == TFIDF)
    ids = [own for part in run_examples(run).values() for own in part.beginnings().ids]
    ordered = sorted(ids, key=len)
    some = [ordered[len(ordered) * (2 * i + 1) // (2 * _TIMED)] for i in range(_TIMED)]
    reader = state_reader(recipe, run)

    def padded(rows: list[list[int]]) -> int:
        return padded_tokens([len(row) for row in rows], PREDICT_TOKENS)

    states = second_time(lambda: predict_logits(reader, some)) / padded(some) * padded(ids)
    return {TFIDF_FEATURES: _FITS * baseline, STATES: states}


def state_reader(recipe: Recipe, run: Run) -> Classifier:
    """The starting weights, which saw no label, with a head that returns the text's state as logits (n, C)."""
    body = base_weights(recipe, run).load().body
    assert isinstance(body, Reader), "a classifier starts from what reads"
    reader = Classifier(body, body.config.width)
    with torch.no_grad():
        reader.head.weight.copy_(torch.eye(body.config.width))
    return reader.to(device_type()).eval()


def write_audit(recipe: Recipe, run: Run, names: list[str]) -> LabelAudit:
    """Search with these features; write label_audit.json and label_suspects.csv."""
    with timed() as seconds:
        records, splits = [], []
        for split in SPLITS:
            own = read_records(run, split, LabelledRow)
            records += own
            splits += [split] * len(own)
        labels = run.result("prepare", ClassifyPrepared).labels
        texts = [record.text for record in records]
        groups, teaching = number_groups(text_keys(texts)), np.array(splits) != "test"
        targets = np.array([labels.index(record.label) for record in records])
        features = [_features(name, recipe, run, texts) for name in names]
        rows = features, targets, groups, teaching, len(labels), recipe.split.seed
        found, planted = search(*rows), measure_search(*rows)
        spent = seconds()
    suspects = [
        Suspect(
            records[at].row,
            splits[at],
            records[at].text,
            records[at].label,
            labels[found.suggested[at]],
            round(float(found.quality[at]), 4),
        )
        for at in found.order
    ]
    unjudged = np.unique(targets[~judged_rows(targets, groups, teaching)])
    audit = LabelAudit(
        schema_version=1,
        rows=len(records),
        suspects={split: count for split, count in Counter(suspect.split for suspect in suspects).items()},
        features=names,
        planted=planted,
        seconds=round(spent, 3),
        capped=[labels[at] for at in np.flatnonzero(found.capped)],
        unjudged=[labels[at] for at in unjudged],
        worst=suspects[:_WORST],
    )
    with atomic_write(run.path("label_suspects.csv")) as file:
        writer = table_writer(file)
        writer.writerow(COLUMNS)
        for suspect in suspects:
            cells = [escape_formula(text) for text in (suspect.label, suspect.suggested, suspect.text)]
            writer.writerow([suspect.row, suspect.split, cells[0], cells[1], "", f"{suspect.quality:.4f}", cells[2]])
    write_json(run.path("label_audit.json"), audit.to_json())
    return audit


def _features(name: str, recipe: Recipe, run: Run, texts: list[str]) -> Features:
    """The features of all texts; neither kind depends on labels."""
    if name == TFIDF_FEATURES:
        try:
            counted = tfidf_features(texts)[0].fit_transform(texts).tocsr()
        except ValueError:  # scikit-learn's only sign of an empty vocabulary
            counted = np.zeros((len(texts), 1))
        return Features(name, counted, cost=30.0)
    call_others("audit", str(run.directory))
    states = text_states(recipe, run)
    spread = states.std(axis=0)
    return Features(name, (states - states.mean(axis=0)) / np.where(spread > 0, spread, 1), cost=0.003)


def text_states(recipe: Recipe, run: Run) -> np.ndarray:
    """The states (n, C) of all texts, computed by all processes of the command together."""
    parts = [part.beginnings() for part in run_examples(run).values()]
    reader = state_reader(recipe, run)
    with together():
        return np.concatenate([predict_logits(reader, part.ids, show="hidden states") for part in parts])


def read_audit(run: Run) -> LabelAudit | None:
    """The audit of a run, if one was made."""
    path = run.path("label_audit.json")
    return LabelAudit.from_json(read_json(path), path) if path.exists() else None
