"""Train a classifier on rows in memory for ``TextClassifier.fit``, including all that a prediction needs."""

import json
import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.adapters.lora import merge
from finetune.checkpoints.sources import WeightsSource
from finetune.console import say
from finetune.evaluation.calibration import choose_threshold, fit_temperature, softmax
from finetune.evaluation.label_sets import choose_thresholds, sigmoid
from finetune.models.heads import Classifier, Reader
from finetune.recipe import Recipe, Train
from finetune.tables.readers import LabelledTexts
from finetune.tables.splits import grouped_split, number_groups, text_keys
from finetune.tasks.classify.bundle import Bundle, ManyBundle
from finetune.tasks.classify.data import Records
from finetune.tasks.classify.division import strata_of, train_every_label
from finetune.tasks.classify.job import Examples, build_job, examples, predict_rows
from finetune.tasks.classify.task import labelled_task
from finetune.tasks.setup import assemble, fit
from finetune.tokenizer import Tokenizer
from finetune.training.precision import device_type
from finetune.training.trainable import HIGHEST_USUAL_LR


@dataclass(frozen=True)
class Rows:
    """Labelled texts, with the weights of rows (n,) and of classes (K,); None: all equal."""

    source: LabelledTexts
    labels: list[str]
    weights: np.ndarray | None = None
    class_weights: np.ndarray | None = None


@dataclass(frozen=True)
class Validation:
    """A validation during training."""

    epoch: float
    step: int
    loss: float  # mean over the steps since the last validation
    rows: str  # the split validated on: validation, or training if no rows were held out
    scores: dict[str, float]
    best: bool  # best so far


@dataclass(frozen=True)
class FineTuned:
    """The trained classifier, the resolved settings, and the training's history."""

    bundle: Bundle
    settings: Train
    history: list[Validation]

    @property
    def best_score(self) -> float | None:
        """The metric of the kept epoch on the held-out rows; None if there were none."""
        kept = [found for found in self.history if found.best][-1]
        return kept.scores[self.settings.metric] if kept.rows == "validation" else None


def fine_tune(
    recipe: Recipe, rows: Rows, start: WeightsSource, folder: Path, val_fraction: float, threshold: float | None
) -> FineTuned:
    """Train as a run would, with checkpoints in `folder`.

    val_fraction: may be 0, unlike in a recipe; without held-out rows, the training rows choose the epoch.
    threshold: on the second label's probability, if there are two; None: the one with the best F1 on the held-out rows.
    """
    loaded, task = start.load(recipe.train.dropout), labelled_task(recipe)
    body, tokenizer = loaded.body, loaded.tokenizer
    task.check_start(recipe, type(body), body.config)
    assert isinstance(body, Reader)
    source, labels = rows.source, rows.labels
    _warn_of(recipe, body.config.context)
    max_length = min(recipe.max_length or body.config.context, body.config.context)
    long_texts = recipe.classify.long_texts
    parts = grouped_split(source.texts, strata_of(source), val_fraction, 0.0, recipe.split.seed)
    if source.many:
        parts = train_every_label(source, number_groups(text_keys(source.texts)), parts)
    prepared = task.prepared({name: len(part) for name, part in parts.items()}, len(source.texts), labels, max_length)
    setup = assemble(task, recipe, body, tokenizer, loaded.report.parameters, prepared)
    model, settings = setup.model, setup.settings

    def tokenized(name: str) -> Examples:
        found = examples(Records(source, parts[name]), labels, tokenizer, max_length, task.targets, long_texts)
        return replace(found, weights=None if rows.weights is None else rows.weights[parts[name]])

    learnt, held_out = tokenized("train"), tokenized("val")
    validation = held_out if held_out.rows else learnt
    if rows.class_weights is not None:  # only in the loss, like balanced ones
        weights = rows.class_weights[learnt.targets]
        learnt = replace(learnt, weights=weights if learnt.weights is None else weights * learnt.weights)
    say(f"weights {start.name}; {len(learnt.rows):,} rows to train on, {len(held_out.rows):,} to validate")
    for line in [*setup.why, setup.trainable.describe()]:
        say(f"  {line}")
    objective, device = task.objective(len(labels), settings, learnt, validation), torch.device(device_type())
    job = build_job(model, setup.trainable, settings, learnt, validation, device, objective=objective)
    fit(job, settings, folder, {}, checkpoint_seconds=math.inf)
    model = merge(model.eval()).requires_grad_(False)

    of_rows = many_bundle if source.many else one_bundle
    bundle = of_rows(model, tokenizer, labels, max_length, held_out, threshold)
    bundle = replace(bundle, long_texts=long_texts)
    return FineTuned(bundle, settings, _history(folder / "train.jsonl", bool(held_out.rows)))


def one_bundle(
    model: Classifier,
    tokenizer: Tokenizer,
    labels: list[str],
    max_length: int,
    held_out: Examples,
    threshold: float | None,
) -> Bundle:
    """The classifier of one label per row; the held-out rows determine the temperature, and the threshold if it is None."""
    logits = predict_rows(model, held_out)
    temperature = fit_temperature(logits, held_out.targets, held_out.weights)
    two = len(labels) == 2
    if two and threshold is None:
        threshold = choose_threshold(held_out.targets, softmax(logits, temperature)[:, 1], held_out.weights)
        say(f"  threshold {threshold:.4f}: the best F1 of {labels[1]!r} on the {len(held_out.rows):,} rows held out")
    return Bundle(
        model, tokenizer, labels, labels[1] if two else None, max_length, threshold if two else None, temperature
    )


def many_bundle(
    model: Classifier,
    tokenizer: Tokenizer,
    labels: list[str],
    max_length: int,
    held_out: Examples,
    threshold: float | None,
) -> ManyBundle:
    """The classifier of any number of labels; the held-out rows determine each label's threshold if it is None."""
    thresholds = [threshold or 0.5] * len(labels)
    if threshold is None:
        probabilities = sigmoid(predict_rows(model, held_out))
        thresholds = choose_thresholds(held_out.targets, probabilities, "max-f1", held_out.weights).tolist()
    return ManyBundle(model, tokenizer, labels, None, max_length, None, 1.0, thresholds=thresholds)


def _warn_of(recipe: Recipe, context: int) -> None:
    """Warn of parameters that can only be met in part, or will most likely fail."""
    if recipe.max_length and recipe.max_length > context:
        warnings.warn(
            f"max_length={recipe.max_length} is more than the {context} tokens that the model reads: {context} is used",
            stacklevel=2,
        )
    if recipe.train.lr and recipe.train.lr > HIGHEST_USUAL_LR:
        warnings.warn(
            f"lr={recipe.train.lr:g} is far too high to train GPT-2; usual values are between 1e-5 and 1e-2",
            stacklevel=2,
        )


def _history(log: Path, held_out: bool) -> list[Validation]:
    """The validations in a training's log."""
    history: list[Validation] = []
    losses: list[float] = []
    for line in log.read_text(encoding="utf-8").splitlines():
        entry: dict[str, Any] = json.loads(line)
        if "validation" not in entry:
            losses += [] if entry["loss"] is None else [entry["loss"]]  # None for a step that fp16 skipped
            continue
        rows, loss = "validation" if held_out else "training", float(np.mean(losses))
        history.append(Validation(entry["epoch"], entry["step"], loss, rows, entry["validation"], entry["best"]))
        losses = []
    return history
