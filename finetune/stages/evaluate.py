"""Stage ``evaluate``: the best checkpoint on rows it never saw, beside the baselines, in fp32."""

from pathlib import Path

import numpy as np
from torch import nn

from finetune.adapters.lora import merge
from finetune.checkpoints.fallback import MINI, RANDOM_BYTES
from finetune.console import say
from finetune.datasets.readers import read_labelled
from finetune.errors import DataError, RunError
from finetune.evaluation.calibration import decide, softmax
from finetune.evaluation.metrics import classification_metrics
from finetune.evaluation.score import metric_text
from finetune.files import read_json, write_json
from finetune.recipe import Recipe
from finetune.run import Run, timed
from finetune.stages.by_task import task_of
from finetune.stages.train import build
from finetune.tasks.predict import Bundle
from finetune.tokenizer import Tokenizer
from finetune.training import resume
from finetune.training.precision import device_type

OUTPUTS = ["eval.json", "predictions.csv"]
STARTS = {MINI: "mini, the small pretrained model that is bundled with this project", RANDOM_BYTES: "random weights"}
HOW_TO_GET_GPT2 = "To use GPT-2: connect, run `finetune weights get gpt2`, then run again under another --name."


def trained_model(recipe: Recipe, run: Run) -> tuple[nn.Module, Tokenizer]:
    """The model of the best checkpoint, in eval mode, with its adapters. Raises RunError where it is damaged."""
    method = run.result("train")["method"]  # not anew: on another machine `auto` may stand for something else
    decided = recipe.train.model_copy(update={"method": method})
    built = build(recipe.model_copy(update={"train": decided}), run)
    directory = resume.step_directory(run.path("checkpoints"), read_json(run.path("checkpoints", "best.json"))["step"])
    if why := resume.damage(directory):
        raise RunError(f"the best checkpoint, {directory.name}, is damaged", got=why, do="Run again with --from train.")
    resume.load_weights(directory, built.model)
    return built.model.eval(), built.tokenizer


def best_model(recipe: Recipe, run: Run) -> tuple[nn.Module, Tokenizer]:
    """The same with the adapters merged: what is measured is what is exported."""
    model, tokenizer = trained_model(recipe, run)
    return merge(model), tokenizer


def run(recipe: Recipe, run: Run) -> dict:
    """Write eval.json, and beside it what the task holds of single rows."""
    task = task_of(recipe)
    with timed() as seconds:
        model, tokenizer = best_model(recipe, run)
        found = task.evaluate(recipe, run, model.to(device_type()), tokenizer)
    evaluation = {"schema_version": 1, "task": recipe.task, "method": run.result("train")["method"],
                  "weights": describe_start(run.result("download")["weights"]), **found, "seconds": round(seconds(), 3)}
    write_json(run.path("eval.json"), evaluation)
    said = task.verdict(evaluation)
    say(said)
    return {"headline": evaluation["headline"], "verdict": said}


def describe_start(weights: dict) -> dict:
    """The weights that were started from, with a sentence where they are not GPT-2's."""
    fallback = weights["name"] in STARTS
    note = f"This run started from {STARTS[weights['name']]}, not from GPT-2. {HOW_TO_GET_GPT2}" if fallback else ""
    return weights | {"fallback": fallback, "note": note}


def score_file(bundle_path: Path, data: Path, text: str | None, label: str | None) -> list[str]:
    """The metrics of a bundle on a labelled file, as lines. Raises DataError for a label that it does not know."""
    bundle = Bundle.load(bundle_path)
    source = read_labelled(data, text, label, least_labels=1)
    unknown = sorted(set(source.labels) - set(bundle.labels))
    if unknown:
        raise DataError(f"{data}: labels that the model never saw", got=", ".join(unknown[:8]),
                        known=", ".join(bundle.labels))
    positive = bundle.labels.index(bundle.positive) if bundle.positive else None
    probabilities = softmax(bundle.logits(source.texts), bundle.temperature)
    targets = np.array([bundle.labels.index(own) for own in source.labels])
    metrics = classification_metrics(targets, decide(probabilities, positive, bundle.threshold), probabilities,
                                     bundle.labels, positive, resamples=1000, seed=0)
    lines = [f"{name:18} {metric_text(entry, name)}" for name, entry in metrics.items()]
    return [f"{len(targets):,} rows", *lines,
            *(f"note: {count} rows left out: {reason}" for reason, count in source.dropped.items())]
