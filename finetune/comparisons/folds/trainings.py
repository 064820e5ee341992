"""The trainings of the stage ``folds`` and their results."""

import shutil
from dataclasses import dataclass

import numpy as np
import torch

from finetune.comparisons.folds.page import verdict
from finetune.comparisons.folds.results import FoldsComparison, FoldTraining, OverFolds
from finetune.comparisons.results import Basis
from finetune.console import say
from finetune.errors import counted
from finetune.evaluation.aims import choose_rule
from finetune.evaluation.baseline import tfidf_logistic
from finetune.evaluation.calibration import fit_temperature, softmax
from finetune.evaluation.folds import assign_folds, difference_over_folds, mean_over_folds
from finetune.evaluation.metrics import DecisionCounts, per_class
from finetune.files import read_json, write_json
from finetune.machine import timed
from finetune.recipe import Recipe
from finetune.records import Downloaded, Record
from finetune.run import Run
from finetune.tables.splits import SPLITS, grouped_split, number_groups, text_keys
from finetune.tasks.base import read_records, task_of
from finetune.tasks.classify.data import LabelledRow, read_data
from finetune.tasks.classify.job import Examples, build_job, predict_rows
from finetune.tasks.classify.labelled import ClassifyPrepared, run_examples, write_predictions
from finetune.tasks.classify.score import positive_label, recipe_costs
from finetune.tasks.setup import assemble, base_weights, fit, identity, start_weights
from finetune.training.loop import set_threads
from finetune.training.precision import device_type


@dataclass(frozen=True)
class FoldsResult(Record):
    """The result of the stage."""

    folds: int


@dataclass(frozen=True)
class Rows:
    """All n prepared rows."""

    records: list[LabelledRow]
    examples: Examples
    keys: np.ndarray  # (n,) hashes of the texts
    groups: list[str] | None  # (n,)

    def part(self, at: list[int]) -> Examples:
        """The examples at these positions."""
        return self.examples.take(at)

    def texts(self, at: list[int]) -> list[str]:
        """The texts at these positions."""
        return [self.records[i].text for i in at]


def cross_validate(recipe: Recipe, run: Run, reads: tuple[str, ...]) -> FoldsResult:
    """For each fold, train on the others and predict it; write comparison.json and predictions.csv."""
    count, labels = recipe.folds.count, run.result("prepare", ClassifyPrepared).labels
    rows = _all_rows(recipe, run)
    own_labels = [record.label for record in rows.records]
    folds = assign_folds(own_labels, number_groups(rows.keys, rows.groups), count, recipe.split.seed)
    positive = positive_label(recipe, labels)
    metric = "f1_macro" if positive is None else "f1"
    results, scores, others = [], [], []
    for fold in range(count):
        say(f"[{fold + 1}/{count}] fold {fold + 1}: {counted(int((folds == fold).sum()), 'row')}")
        found = _fit_once(recipe, run, rows, folds, fold, reads)
        y = rows.examples.targets[folds == fold]
        results.append(found)
        scores.append(_scores(y, found.predicted, found.probabilities, metric, positive))
        others.append(_scores(y, found.baseline_predicted, found.baseline, metric, positive))
        say(f"  accuracy {scores[-1]['accuracy']:.4f}, TF-IDF {others[-1]['accuracy']:.4f}")

    n, k = len(rows.records), len(labels)
    predicted, probabilities = np.empty(n, dtype=int), np.empty((n, k))
    for fold, found in enumerate(results):
        predicted[folds == fold], probabilities[folds == fold] = found.predicted, found.probabilities
    targets = rows.examples.targets
    confusion = np.zeros((k, k), dtype=int)
    np.add.at(confusion, (targets, predicted), 1)

    def over_folds(found: list[dict[str, float]]) -> dict[str, OverFolds]:
        columns = {name: [own[name] for own in found] for name in found[0]}
        return {name: OverFolds(mean_over_folds(values, n, name), values) for name, values in columns.items()}

    model, baseline = over_folds(scores), over_folds(others)
    comparison = FoldsComparison(
        schema_version=1,
        task="folds",
        labels=labels,
        positive=None if positive is None else labels[positive],
        device=device_type(),
        weights=start_weights(run.result("download", Downloaded).weights),
        rows=n,
        fold_rows=np.bincount(folds).tolist(),
        threads=results[0].threads,
        method=results[0].method,
        metrics=model,
        baseline=baseline,
        difference={
            name: difference_over_folds(model[name].by_fold, baseline[name].by_fold, n) for name in ("accuracy", metric)
        },
        baseline_note=results[0].baseline_note,
        confusion_matrix=confusion.tolist(),
        per_class=per_class(targets, predicted, labels),
        seconds=[found.seconds for found in results],
        epochs=[found.epochs for found in results],
        baseline_seconds=float(np.mean([found.baseline_seconds for found in results])),
    )
    write_json(run.path("comparison.json"), comparison.to_json())
    confidence = probabilities[np.arange(n), predicted]
    write_predictions(run, rows.records, labels, [labels[i] for i in predicted], confidence, probabilities)
    say(verdict(comparison))
    return FoldsResult(count)


def _all_rows(recipe: Recipe, run: Run) -> Rows:
    """The rows of all splits in the order of the file, with their groups read again, since ``prepare`` does not store them."""
    records = [record for name in SPLITS for record in read_records(run, name, LabelledRow)]
    parts = list(run_examples(run, SPLITS).values())
    order = np.argsort([record.row for record in records]).tolist()
    every = Examples(
        [record.row for record in records],
        parts[0].ids + parts[1].ids + parts[2].ids,
        np.concatenate([part.targets for part in parts]),
        pieces=np.concatenate([np.bincount(part.row_of_piece(), minlength=len(part.rows)) for part in parts]),
    )
    records, examples = [records[i] for i in order], every.take(order)
    groups = read_data(recipe).groups if recipe.columns.group else None
    return Rows(records, examples, text_keys(record.text for record in records), groups)


def _scores(
    y: np.ndarray, predicted: list[int], probabilities: list[list[float]], metric: str, positive: int | None
) -> dict[str, float]:
    """Accuracy, F1 and log loss of one fold's rows."""
    from sklearn.metrics import log_loss

    k = len(probabilities[0])
    found = DecisionCounts(y, np.array(predicted), k).scores(np.ones((1, len(y))), positive)
    return {
        **{name: float(found[name][0]) for name in ("accuracy", metric)},
        "log_loss": float(log_loss(y, np.array(probabilities), labels=np.arange(k))),
    }


def _fit_once(
    recipe: Recipe, run: Run, rows: Rows, folds: np.ndarray, fold: int, reads: tuple[str, ...]
) -> FoldTraining:
    """The result of one fold, read from disk if it exists; the weights are not kept."""
    directory = run.path("folds", str(fold + 1))
    written = directory / "result.json"
    basis = Basis(**identity(recipe, run, reads), device=device_type(), threads=set_threads(recipe.train.threads))
    found = None
    if written.exists():
        found = FoldTraining.from_json(read_json(written), written, do="Delete it to train this fold again.")
    if found is None or not found.same(basis):
        found = _fit(recipe, run, rows, folds, fold, basis)
        write_json(written, found.to_json())
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return found


def _fit(recipe: Recipe, run: Run, rows: Rows, folds: np.ndarray, fold: int, basis: Basis) -> FoldTraining:
    """Train on the other folds, with a part of them as validation, and predict this one."""
    test, rest = np.flatnonzero(folds == fold).tolist(), np.flatnonzero(folds != fold).tolist()
    parts = grouped_split(
        rows.texts(rest),
        [rows.records[i].label for i in rest],
        recipe.split.val_fraction,
        0.0,
        recipe.split.seed + fold,
        [rows.groups[i] for i in rest] if rows.groups else None,
        rows.keys[rest],
    )
    train, val = ([rest[i] for i in parts[name]] for name in ("train", "val"))
    task, prepared = task_of(recipe), run.result("prepare", ClassifyPrepared)
    with timed() as seconds:
        loaded = base_weights(recipe, run).load(recipe.train.dropout)
        setup = assemble(task, recipe, loaded.body, loaded.tokenizer, loaded.report.parameters, prepared)
        device = torch.device(device_type())
        job = build_job(setup.model, setup.trainable, setup.settings, rows.part(train), rows.part(val), device)
        trained = fit(job, setup.settings, run.path("folds", str(fold + 1)), _checkpoint_identity(basis, fold))
        spent = seconds()
    model = setup.model.eval()
    y_val, k = rows.examples.targets[val], len(prepared.labels)
    logits = {name: predict_rows(model, rows.part(at)) for name, at in (("val", val), ("test", test))}
    temperature = fit_temperature(logits["val"], y_val)
    own = {name: softmax(values, temperature) for name, values in logits.items()}
    tfidf, note, took = tfidf_logistic(
        rows.texts(train), rows.examples.targets[train], rows.texts(val), y_val, rows.texts(val + test), k
    )
    positive = positive_label(recipe, prepared.labels)

    def decisions(p_val: np.ndarray, p_test: np.ndarray) -> list[int]:
        rule = choose_rule(recipe.evaluate.aim or "half", recipe_costs(recipe), y_val, p_val, positive)
        found: list[int] = rule.predict(p_test, positive).tolist()
        return found

    return FoldTraining(
        **vars(basis),
        rows=[rows.records[i].row for i in test],
        probabilities=own["test"].tolist(),
        predicted=decisions(own["val"], own["test"]),
        baseline=tfidf[len(val) :].tolist(),
        baseline_predicted=decisions(tfidf[: len(val)], tfidf[len(val) :]),
        baseline_note=note,
        train_rows=len(train),
        seconds=round(max(spent, trained.seconds), 3),
        baseline_seconds=took,
        epochs=trained.epochs,
        method=setup.settings.method,
    )


def _checkpoint_identity(basis: Basis, fold: int) -> dict[str, str]:
    """The identity of everything that the checkpoints of a fold depend on."""
    return {"recipe": basis.recipe, "data": f"{basis.data}-{fold}", "weights": basis.weights}
