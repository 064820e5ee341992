"""The trainings of the stage ``learning_curve``, and the curve through their errors."""

import shutil
from dataclasses import dataclass, replace

import numpy as np
import torch

from finetune.comparisons.learning_curve.page import verdict
from finetune.comparisons.learning_curve.results import CurveComparison, CurvePoint, CurveTraining, Extrapolated
from finetune.comparisons.learning_curve.subsets import draw_rows, trainings
from finetune.comparisons.results import Basis
from finetune.console import say
from finetune.evaluation.baseline import tfidf_logistic
from finetune.evaluation.candidates import compare_candidates
from finetune.evaluation.extrapolation import fit_power_law
from finetune.files import read_json, write_json
from finetune.machine import timed
from finetune.recipe import Recipe
from finetune.records import Downloaded, Record
from finetune.run import Run
from finetune.tables.splits import SPLITS
from finetune.tasks.base import read_records, task_of
from finetune.tasks.classify.data import LabelledRow
from finetune.tasks.classify.job import Examples, build_job
from finetune.tasks.classify.labelled import ClassifyPrepared, run_examples
from finetune.tasks.classify.score import TFIDF, positive_label
from finetune.tasks.setup import assemble, base_weights, fit, identity, start_weights
from finetune.training.loop import set_threads
from finetune.training.precision import device_type
from finetune.training.predict import predict_logits

MODEL = "model"


@dataclass(frozen=True)
class CurveResult(Record):
    """The result of the stage."""

    trainings: int


@dataclass(frozen=True)
class Rows:
    """The prepared rows of each split."""

    examples: dict[str, Examples]
    texts: dict[str, list[str]]


def draw_curve(recipe: Recipe, run: Run, reads: tuple[str, ...]) -> CurveResult:
    """Train the classifier and TF-IDF on each share of the training rows, and write comparison.json."""
    texts = {name: [record.text for record in read_records(run, name, LabelledRow)] for name in SPLITS}
    rows, wanted = Rows(run_examples(run), texts), trainings(recipe)
    labels = run.result("prepare", ClassifyPrepared).labels
    y = rows.examples["test"].targets
    results: dict[float, list[CurveTraining]] = {}
    for number, (share, seed) in enumerate(wanted, 1):
        say(f"[{number}/{len(wanted)}] {share:.0%} of the training rows, seed {seed}")
        found = _fit_once(recipe, run, rows, share, seed, reads)
        results.setdefault(share, []).append(found)
        own, other = (float(np.mean(np.array(p) == y)) for p in (found.predicted, found.baseline_predicted))
        say(f"  {found.train_rows:,} rows: accuracy {own:.4f}, TF-IDF {other:.4f}")
    positive = positive_label(recipe, labels)
    points = [_point(recipe, share, own, y, len(labels), positive) for share, own in results.items()]
    last = next(reversed(results.values()))[0]
    comparison = CurveComparison(
        schema_version=1,
        task="learning_curve",
        labels=labels,
        positive=None if positive is None else labels[positive],
        device=device_type(),
        weights=start_weights(run.result("download", Downloaded).weights),
        points=points,
        threads=last.threads,
        validation_rows=len(rows.texts["val"]),
        baseline_note=last.baseline_note,
        model=extrapolate(points, [point.by_seed for point in points]),
        baseline=extrapolate(points, [point.baseline_by_seed for point in points]),
    )
    write_json(run.path("comparison.json"), comparison.to_json())
    say(verdict(comparison))
    return CurveResult(len(wanted))


def extrapolate(points: list[CurvePoint], accuracies: list[list[float]]) -> Extrapolated | None:
    """Fit a curve to all trainings and extrapolate it. accuracies: of each point's trainings."""
    n, last = points[-1].accuracy.n, points[-1].rows
    pairs = [(point.rows, 1 - value) for point, own in zip(points, accuracies, strict=True) for value in own]
    law = fit_power_law([rows for rows, _ in pairs], [error for _, error in pairs], n)
    if law is None:
        return None
    before = [pair for pair in pairs if pair[0] < last]
    earlier = fit_power_law([rows for rows, _ in before], [error for _, error in before], n)
    return Extrapolated(
        law=law,
        now=law.at(last),
        double=law.at(2 * last),
        quadruple=law.at(4 * last),
        back=None if earlier is None else earlier.at(last),
        measured=1 - float(np.mean(accuracies[-1])),
    )


def _point(
    recipe: Recipe, share: float, found: list[CurveTraining], y: np.ndarray, k: int, positive: int | None
) -> CurvePoint:
    """The mean results of the trainings on one share, compared with TF-IDF on the same test rows."""
    decisions = {
        TFIDF: np.array([own.baseline_predicted for own in found]),
        MODEL: np.array([own.predicted for own in found]),
    }
    both = compare_candidates(y, decisions, k, positive, TFIDF, recipe.evaluate.resamples, recipe.split.seed)
    model, baseline, f1 = both[MODEL], both[TFIDF], "f1_macro" if positive is None else "f1"
    assert model.difference is not None, "TF-IDF is the reference"
    return CurvePoint(
        share=share,
        rows=found[0].train_rows,
        accuracy=model.metrics["accuracy"],
        baseline=baseline.metrics["accuracy"],
        f1=model.metrics[f1],
        baseline_f1=baseline.metrics[f1],
        difference=model.difference.metrics["accuracy"],
        p_value=model.difference.p_value,
        by_seed=[own["accuracy"] for own in model.by_seed],
        baseline_by_seed=[own["accuracy"] for own in baseline.by_seed],
        seconds=float(np.mean([own.seconds for own in found])),
        method=found[0].method,
    )


def _fit_once(recipe: Recipe, run: Run, rows: Rows, share: float, seed: int, reads: tuple[str, ...]) -> CurveTraining:
    """The result of one training, read from disk if it exists; the weights are not kept."""
    directory = run.path("curve", f"{share:g}-{seed}")
    written = directory / "result.json"
    basis = Basis(**identity(recipe, run, reads), device=device_type(), threads=set_threads(recipe.train.threads))
    found = None
    if written.exists():
        found = CurveTraining.from_json(read_json(written), written, do="Delete it to repeat this training.")
    if found is None or not found.same(basis):
        found = _fit(recipe, run, rows, share, seed, basis)
        write_json(written, found.to_json())
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return found


def _fit(recipe: Recipe, run: Run, rows: Rows, share: float, seed: int, basis: Basis) -> CurveTraining:
    """Train on a share of the rows, as a run with only these rows would, and predict the test rows."""
    train, val, test = (rows.examples[name] for name in SPLITS)
    at = draw_rows(train.targets, share, seed).tolist()
    part = Examples([train.rows[i] for i in at], train.ids.take(at), train.targets[at])
    prepared = run.result("prepare", ClassifyPrepared)
    prepared = replace(prepared, splits=prepared.splits | {"train": len(at)})
    own = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})})
    directory = run.path("curve", f"{share:g}-{seed}")
    with timed() as seconds:
        loaded = base_weights(recipe, run).load(recipe.train.dropout)
        setup = assemble(task_of(own), own, loaded.body, loaded.tokenizer, loaded.report.parameters, prepared)
        job = build_job(setup.model, setup.trainable, setup.settings, part, val, torch.device(device_type()))
        names = {"recipe": basis.recipe, "data": f"{basis.data}-{share:g}-{seed}", "weights": basis.weights}
        trained = fit(job, setup.settings, directory, names)
        spent = seconds()
    learnt = [rows.texts["train"][i] for i in at]
    tfidf, note, took = tfidf_logistic(
        learnt, part.targets, rows.texts["val"], val.targets, rows.texts["test"], len(prepared.labels)
    )
    return CurveTraining(
        **vars(basis),
        train_rows=len(at),
        predicted=predict_logits(setup.model.eval(), test.ids).argmax(axis=1).tolist(),
        baseline_predicted=tfidf.argmax(axis=1).tolist(),
        baseline_note=note,
        seconds=round(max(spent, trained.seconds), 3),
        baseline_seconds=took,
        epochs=trained.epochs,
        method=setup.settings.method,
    )
