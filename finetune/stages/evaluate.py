"""Stage ``evaluate``: the best checkpoint on rows it never saw, beside the baselines, in fp32."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import nn

from finetune.adapters.lora import merge
from finetune.checkpoints.fallback import MINI, RANDOM_BYTES
from finetune.console import progress, say
from finetune.errors import DataError, RunError, listed
from finetune.evaluation.calibration import softmax
from finetune.evaluation.metrics import classification_metrics
from finetune.files import read_json, write_json
from finetune.machine import timed
from finetune.recipe import Recipe
from finetune.report.metric_text import metric_text
from finetune.run import Run
from finetune.stages.by_task import task_of
from finetune.stages.train import build
from finetune.tables.detect import detect_format
from finetune.tables.readers import HEADER_NAMES, LabelledTexts, labelled_chunks
from finetune.tables.tables import iterate_table
from finetune.tasks.predict import CHUNK, Bundle
from finetune.tokenizer import Tokenizer
from finetune.training import resume
from finetune.training.precision import device_type

OUTPUTS = ["eval.json", "predictions.csv", "answers.csv", "targets.csv", "attention.json"]
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


def score_file(bundle_path: Path, data: Path, text: str | None, label: str | None,
               encoding: str | None = None) -> list[str]:
    """The metrics of a bundle on a labelled file, as lines. Raises DataError for a label that it does not know.

    The file is read twice, for its labels and then for its texts; of a row only numbers stay in memory.
    """
    bundle = Bundle.load(bundle_path)
    layout = detect_format(data, encoding, HEADER_NAMES).layout
    names = next(iterate_table(data, layout), ([],))[0]
    text, label = bundle.column("text", text, names), bundle.column("label", label, names)

    def chunks() -> Iterator[LabelledTexts]:
        return labelled_chunks(data, text, label, layout, size=CHUNK)
    number = {own: i for i, own in enumerate(bundle.labels)}
    targets, unknown, dropped = [np.zeros(0, dtype=np.int64)], set(), Counter()
    for part in chunks():
        unknown |= set(part.labels) - set(number)
        targets.append(np.array([number.get(own, -1) for own in part.labels], dtype=np.int64))
        dropped.update(part.dropped)
    if unknown:
        raise DataError(f"{data}: column {part.label_column!r} has labels that the model never saw",
                        got=listed(sorted(unknown)), known=listed(bundle.labels),
                        do="Is it the column of labels? Name another with --label NAME, or leave these rows out.")
    y = np.concatenate(targets)
    if not len(y):
        raise DataError(f"{data}: no row has a text and a label", do="Name the columns with --text and --label.")
    logits, done = np.empty((len(y), len(number)), dtype=np.float32), 0
    with progress("scoring", len(y), unit="rows") as advance:
        for part in chunks():
            logits[done:done + len(part.texts)] = bundle.logits(part.texts)
            done += len(part.texts)
            advance(len(part.texts))
    probabilities = softmax(logits, bundle.temperature)
    positive = number[bundle.positive] if bundle.positive else None
    metrics = classification_metrics(y, bundle.decide(probabilities), probabilities, bundle.labels, positive,
                                     resamples=1000, seed=0)
    lines = [f"{name:18} {metric_text(entry, name)}" for name, entry in metrics.items()]
    return [f"{len(y):,} rows; text {part.text_column!r}, label {part.label_column!r}", *lines,
            *(f"note: {count} rows left out: {reason}" for reason, count in dropped.items())]
