"""Train a run's classifier with further seeds on the same rows, and measure each on the same test rows."""

import shutil
from dataclasses import replace
from typing import Any

import torch

from finetune.adapters.lora import merge
from finetune.console import say
from finetune.evaluation.over_seeds import Seeds, over_seeds
from finetune.evaluation.results import Metric
from finetune.models.heads import Reader
from finetune.recipe import Recipe, Train
from finetune.report.metric_text import metric_value
from finetune.run import Run
from finetune.tasks.classify.labelled import ClassifyPrepared, LabelledTask, run_examples
from finetune.tasks.classify.score import ClassifierEvaluation, L, LabelledEvaluation
from finetune.tasks.setup import assemble, base_weights, fit, identity
from finetune.training.pieces import average
from finetune.training.precision import device_type
from finetune.training.predict import predict_logits
from finetune.training.ranks import rank

_READS = ("task", "weights", "classify", *(f"train.{name}" for name in Train.model_fields))


def with_seeds(task: LabelledTask[L], recipe: Recipe, run: Run, found: L) -> L:
    """A run's evaluation with the metrics of further seeds, if the recipe asks for them."""
    return found if recipe.evaluate.seeds == 1 else replace(found, seeds=train_seeds(task, recipe, run, found))


def train_seeds(task: LabelledTask[Any], recipe: Recipe, run: Run, first: LabelledEvaluation) -> Seeds:
    """The model's metrics over the seeds: those of the run (`first`), and of each further training.

    All start from the same weights. A stopped run resumes the trainings; their weights are not kept.
    """
    seeds = [recipe.train.seed + further for further in range(recipe.evaluate.seeds)]
    metric, model = first.headline.metric, first.model if isinstance(first, ClassifierEvaluation) else None
    results = [(model or first).metrics]
    for seed in seeds[1:]:
        say(f"training with seed {seed}")
        results.append(_train(task, recipe, run, seed))
        say(f"  {metric} {metric_value(metric, results[-1][metric].value)}")
    if rank() == 0:
        shutil.rmtree(run.path("seeds"), ignore_errors=True)
    values = {name: [found[name].value for found in results] for name in first.metrics}
    n = first.headline.n
    metrics = {
        name: over_seeds([value for value in own if value is not None], n, name)
        for name, own in values.items()
        if None not in own
    }
    return Seeds(seeds, metrics)


def _train(task: LabelledTask[Any], recipe: Recipe, run: Run, seed: int) -> dict[str, Metric]:
    """One training, and its metrics on the test rows under its own decision rule."""
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})})
    prepared = run.result("prepare", ClassifyPrepared)
    loaded = base_weights(recipe, run).load(recipe.train.dropout)
    assert isinstance(loaded.body, Reader), "a classifier starts from what reads"
    setup = assemble(task, recipe, loaded.body, loaded.tokenizer, loaded.report.parameters, prepared)
    job = task.build_job(recipe, run, setup, torch.device(device_type()))
    fit(job, setup.settings, run.path("seeds", str(seed)), identity(recipe, run, _READS))
    model = merge(setup.model.eval())
    parts = run_examples(run, ("val", "test"), task.targets)
    logits = {name: average(predict_logits(model, part.ids), part.pieces) for name, part in parts.items()}
    targets = {name: part.targets for name, part in parts.items()}
    return task.measure(recipe, prepared.labels, targets, logits)
