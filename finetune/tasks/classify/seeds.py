"""Train a run's classifier with further seeds on the same rows, and measure each on the same test rows."""

import shutil

import torch

from finetune.adapters.lora import merge
from finetune.console import say
from finetune.evaluation.aims import choose_rule
from finetune.evaluation.calibration import fit_temperature, softmax
from finetune.evaluation.metrics import classification_metrics
from finetune.evaluation.over_seeds import Seeds, over_seeds
from finetune.evaluation.results import Metric
from finetune.recipe import Recipe, Train
from finetune.run import Run
from finetune.tasks.base import AnyTask
from finetune.tasks.classify.labelled import ClassifyPrepared, run_examples
from finetune.tasks.classify.score import ClassifierEvaluation, positive_label, recipe_costs
from finetune.tasks.setup import assemble, base_weights, fit, identity
from finetune.training.precision import device_type
from finetune.training.predict import predict_logits

_READS = ("task", "weights", "classify", *(f"train.{name}" for name in Train.model_fields))


def train_seeds(task: AnyTask, recipe: Recipe, run: Run, first: ClassifierEvaluation) -> Seeds:
    """The metrics over the seeds: those of the run, which are `first`'s, and of each further training.

    All start from the same weights. A stopped run takes the trainings up again; their weights are not kept.
    """
    seeds = [recipe.train.seed + further for further in range(recipe.evaluate.seeds)]
    results = [first.metrics]
    for seed in seeds[1:]:
        say(f"training with seed {seed}")
        results.append(_train(task, recipe, run, seed))
        say(f"  {first.headline.metric} {results[-1][first.headline.metric].value}")
    shutil.rmtree(run.path("seeds"), ignore_errors=True)
    values = {name: [found[name].value for found in results] for name in first.metrics}
    n = first.headline.n
    metrics = {
        name: over_seeds([value for value in own if value is not None], n)
        for name, own in values.items()
        if None not in own
    }
    return Seeds(seeds, metrics)


def _train(task: AnyTask, recipe: Recipe, run: Run, seed: int) -> dict[str, Metric]:
    """One training, and its metrics on the test rows under a rule of its own."""
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})})
    prepared = run.result("prepare", ClassifyPrepared)
    loaded = base_weights(recipe, run).load(recipe.train.dropout)
    setup = assemble(task, recipe, loaded.body, loaded.tokenizer, loaded.report.parameters, prepared)
    job = task.build_job(recipe, run, setup, torch.device(device_type()))
    fit(job, setup.settings, run.path("seeds", str(seed)), identity(recipe, run, _READS))
    model = merge(setup.model.eval())
    parts = run_examples(run, ("val", "test"))
    logits = {name: predict_logits(model, part.ids) for name, part in parts.items()}
    temperature = fit_temperature(logits["val"], parts["val"].targets)
    p_val, p_test = (softmax(logits[name], temperature) for name in ("val", "test"))
    positive = positive_label(recipe, prepared.labels)
    rule = choose_rule(recipe.evaluate.aim or "half", recipe_costs(recipe), parts["val"].targets, p_val, positive)
    return classification_metrics(
        parts["test"].targets,
        rule.predict(p_test, positive),
        p_test,
        prepared.labels,
        positive,
        recipe.evaluate.resamples,
        recipe.train.seed,
    )
