"""The trainings of the stage ``methods``, each in its own process, and their comparison."""

import shutil
from dataclasses import dataclass, replace

import numpy as np

from finetune.checkpoints.fallback import SCRATCH
from finetune.comparisons.methods.candidates import CANDIDATES, LAST, PADDED, read_out
from finetune.comparisons.methods.page import verdict
from finetune.comparisons.methods.results import CleanAccuracy, MethodCandidate, MethodsComparison, MethodTraining
from finetune.comparisons.results import Basis, fields_of
from finetune.console import say
from finetune.evaluation.baseline import tfidf_logistic
from finetune.evaluation.candidates import Candidate, compare_candidates
from finetune.evaluation.leakage import clean_rows
from finetune.files import read_json, write_json
from finetune.machine import timed
from finetune.models.gpt import GPT
from finetune.recipe import Recipe
from finetune.records import Downloaded, Record, Verified
from finetune.run import Run
from finetune.tables.splits import normalise_text
from finetune.tasks.base import read_records, task_of
from finetune.tasks.classify.data import LabelledRow
from finetune.tasks.classify.job import build_job, predict_rows
from finetune.tasks.classify.labelled import ClassifyPrepared, run_examples
from finetune.tasks.classify.score import TFIDF, positive_label
from finetune.tasks.setup import assemble, fit, identity, is_pretrained, load_base, start_weights
from finetune.training.launch import launch
from finetune.training.loop import set_threads
from finetune.training.precision import device_type
from finetune.training.trainable import choose_method


@dataclass(frozen=True)
class MethodsResult(Record):
    """The result of the stage."""

    reference: str  # the candidate that the others are compared with


def plans(recipe: Recipe) -> list[tuple[str, Recipe]]:
    """The recipes that a dry run measures: candidates that use rows and weights unchanged."""
    return [
        (own.label, recipe.model_copy(update={"train": own.settings(recipe.train, recipe.train.seed)}))
        for own in map(CANDIDATES.__getitem__, recipe.methods.candidates)
        if own.pretrained and own.reads == LAST
    ]


def compare(recipe: Recipe, run: Run, reads: tuple[str, ...]) -> MethodsResult:
    """Write comparison.json. Finished trainings of a stopped run are not repeated."""
    prepared = run.result("prepare", ClassifyPrepared)
    labels = prepared.labels
    records = {name: read_records(run, name, LabelledRow) for name in ("train", "val", "test")}
    targets = {name: np.array([labels.index(record.label) for record in rows]) for name, rows in records.items()}
    wanted = [
        (name, seed)
        for name in recipe.methods.candidates
        for seed in range(recipe.train.seed, recipe.train.seed + recipe.methods.seeds)
    ]
    results: dict[str, list[MethodTraining]] = {}
    for number, (name, seed) in enumerate(wanted, 1):
        say(f"[{number}/{len(wanted)}] {CANDIDATES[name].label}, seed {seed}")
        seed = seed if CANDIDATES[name].seeded else recipe.train.seed
        trained = _fit_once(recipe, run, name, seed, reads)
        results.setdefault(name, []).append(trained)
        accuracy = np.mean(np.array(trained.predicted) == targets["test"])
        say(f"  test accuracy {accuracy:.4f}, trained in {trained.seconds:.0f} s")

    texts = {name: [record.text for record in rows] for name, rows in records.items()}
    clean = clean_rows(texts["train"] + texts["val"], texts["test"], normalise_text)
    probabilities, note, seconds = tfidf_logistic(
        texts["train"], targets["train"], texts["val"], targets["val"], texts["test"], len(labels)
    )
    decisions = {name: np.array([fit.predicted for fit in fits]) for name, fits in results.items()}
    decisions[TFIDF] = probabilities.argmax(1)[None]
    reference, why = _reference(recipe, run, prepared.splits["train"])
    positive = positive_label(recipe, labels)
    found = compare_candidates(
        targets["test"], decisions, len(labels), positive, reference, recipe.evaluate.resamples, recipe.split.seed
    )

    def clean_accuracy(name: str) -> CleanAccuracy:
        right = (decisions[name] == targets["test"])[:, clean]
        return CleanAccuracy(float(right.mean()) if clean.any() else None, int(clean.sum()))

    candidates = [_candidate(name, fits, found[name], clean_accuracy(name)) for name, fits in results.items()]
    candidates.append(
        MethodCandidate(
            name=TFIDF, label=TFIDF, **fields_of(found[TFIDF]), seconds=seconds, note=note, clean=clean_accuracy(TFIDF)
        )
    )
    comparison = MethodsComparison(
        schema_version=1,
        task="methods",
        labels=labels,
        positive=None if positive is None else labels[positive],
        reference=reference,
        why=why,
        seeds=recipe.methods.seeds,
        device=device_type(),
        threads=next(iter(results.values()))[0].threads,
        weights=start_weights(run.result("download", Downloaded).weights),
        candidates=candidates,
    )
    write_json(run.path("comparison.json"), comparison.to_json())
    say(verdict(comparison))
    return MethodsResult(reference)


def _candidate(name: str, fits: list[MethodTraining], found: Candidate, clean: CleanAccuracy) -> MethodCandidate:
    """A method with the results of its trainings, one per seed."""
    first = fits[0]
    return MethodCandidate(
        name=name,
        label=CANDIDATES[name].label,
        **fields_of(found),
        seconds=float(np.mean([fit.seconds for fit in fits])),
        peak_bytes=float(np.mean([fit.peak_bytes for fit in fits])),
        epochs=float(np.mean([fit.epochs for fit in fits])),
        trainable=first.trainable,
        total=first.total,
        lr=first.lr,
        precision=first.precision,
        clean=clean,
    )


def _reference(recipe: Recipe, run: Run, rows: int) -> tuple[str, str]:
    """The candidate that `auto` would choose here, and why; the first one if that candidate is not compared."""
    method, why = choose_method(run.result("verify", Verified).parameters, is_pretrained(recipe), rows, device_type())
    chosen = [
        name
        for name in recipe.methods.candidates
        if (own := CANDIDATES[name]).method == method
        and own.reads == LAST
        and own.pretrained
        and (method != "last-blocks" or own.last_blocks == recipe.train.last_blocks)
    ]
    return (
        (chosen[0], f"what train.method=auto chooses here: {why}")
        if chosen
        else (recipe.methods.candidates[0], "the first candidate")
    )


def _fit_once(recipe: Recipe, run: Run, name: str, seed: int, reads: tuple[str, ...]) -> MethodTraining:
    """The result of one training, read from disk if it exists; the weights are not kept.

    Each training runs in its own process to measure its peak memory. Raises RunError if the file on disk is damaged or
    from another version.
    """
    directory = run.path("comparison", f"{name}-{seed}")
    written = directory / "result.json"
    found = None
    if written.exists():
        found = MethodTraining.from_json(read_json(written), written, do="Delete it to repeat this training.")
    if found is None or not found.same(_basis(recipe, run, reads)):
        directory.mkdir(parents=True, exist_ok=True)
        command = ["-m", "finetune.comparisons.methods.stage", str(run.directory), name, str(seed)]
        found = launch(command, run, MethodTraining)
        write_json(written, found.to_json())
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return found


def _basis(recipe: Recipe, run: Run, reads: tuple[str, ...]) -> Basis:
    return Basis(**identity(recipe, run, reads), device=device_type(), threads=set_threads(recipe.train.threads))


def fit_here(run: Run, name: str, seed: int, reads: tuple[str, ...]) -> MethodTraining:
    """Train one candidate in this process. Returns its predictions for the test rows and its costs."""
    import torch

    recipe = run.recipe()
    candidate, directory = CANDIDATES[name], run.path("comparison", f"{name}-{seed}")
    set_threads(recipe.train.threads)
    task = task_of(recipe)
    with timed() as seconds:
        prepared, loaded = run.result("prepare", task.prepared), load_base(recipe, run)
        gpt, tokenizer = loaded.gpt, loaded.tokenizer
        if not candidate.pretrained:
            gpt = GPT(gpt.config).initialise(seed)
        asked = recipe.model_copy(
            update={
                "train": candidate.settings(recipe.train, seed),
                "weights": recipe.weights if candidate.pretrained else SCRATCH,
            }
        )
        setup = assemble(task, asked, gpt, tokenizer, loaded.report.parameters, prepared)
        model, settings, trainable = setup.model, setup.settings, setup.trainable
        parts = run_examples(run)
        longest = max(parts["train"].ids.lengths()) if candidate.reads == PADDED else 0
        parts = {
            part: replace(own, ids=read_out(own.ids, candidate.reads, longest, tokenizer.end_of_text))
            for part, own in parts.items()
        }
        job = build_job(model, trainable, settings, parts["train"], parts["val"], torch.device(device_type()))
        found = fit(job, settings, directory, identity(recipe, run, reads))
        spent = seconds()
    logits = predict_rows(model.eval(), parts["test"])
    return MethodTraining(
        **vars(_basis(recipe, run, reads)),
        predicted=logits.argmax(1).tolist(),
        seconds=round(max(spent, found.seconds), 3),
        trainable=trainable.parameters,
        total=trainable.total,
        lr=settings.lr,
        precision=settings.precision,
        epochs=found.epochs,
        steps=found.steps,
        best_step=found.best_step,
        peak_bytes=found.peak_bytes,
    )
