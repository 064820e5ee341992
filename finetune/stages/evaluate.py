"""Stage ``evaluate``: the best checkpoint on rows it never saw, beside the baselines, in fp32."""

from pathlib import Path

import numpy as np
import torch

from finetune.adapters.lora import merge
from finetune.checkpoints.fallback import MINI, RANDOM_BYTES
from finetune.console import say
from finetune.datasets.cells import defuse
from finetune.datasets.readers import read_labelled
from finetune.datasets.splits import SPLITS, normalise_text
from finetune.errors import DataError, RunError
from finetune.evaluation.calibration import decide, softmax
from finetune.evaluation.metrics import classification_metrics
from finetune.evaluation.score import metric_text, score_classifier, verdict
from finetune.files import atomic_write, read_json, write_json
from finetune.models.heads import Classifier, NextToken
from finetune.recipe import Recipe
from finetune.report import language
from finetune.run import Run, timed
from finetune.stages.convert import base_weights
from finetune.stages.prepare import positive_label, read_records
from finetune.stages.train import build, packed_tokens
from finetune.tasks import classify, pretrain
from finetune.tasks.predict import Bundle, table_writer
from finetune.tokenizer import Tokenizer
from finetune.training import resume
from finetune.training.precision import device_type

OUTPUTS = ["eval.json", "predictions.csv"]
STARTS = {MINI: "mini, the small pretrained model that is bundled with this project", RANDOM_BYTES: "random weights"}
HOW_TO_GET_GPT2 = "To use GPT-2: connect, run `finetune weights get gpt2`, then run again under another --name."


def trained_model(recipe: Recipe, run: Run) -> tuple[Classifier | NextToken, Tokenizer]:
    """The model of the best checkpoint, in eval mode, with its adapters. Raises RunError where it is damaged."""
    method = run.result("train")["method"]  # not anew: on another machine `auto` may stand for something else
    decided = recipe.train.model_copy(update={"method": method})
    model, tokenizer, *_ = build(recipe.model_copy(update={"train": decided}), run)
    directory = resume.step_directory(run.path("checkpoints"), read_json(run.path("checkpoints", "best.json"))["step"])
    if why := resume.damage(directory):
        raise RunError(f"the best checkpoint, {directory.name}, is damaged", got=why, do="Run again with --from train.")
    resume.load_weights(directory, model)
    return model.eval(), tokenizer


def best_model(recipe: Recipe, run: Run) -> tuple[Classifier | NextToken, Tokenizer]:
    """The same with the adapters merged: what is measured is what is exported."""
    model, tokenizer = trained_model(recipe, run)
    return merge(model), tokenizer


def run(recipe: Recipe, run: Run) -> dict:
    """Write eval.json, and predictions.csv for a classifier."""
    return {"classify": _classify, "pretrain": _pretrain}[recipe.task](recipe, run)


def weights_used(run: Run) -> dict:
    """The weights that a run began with, and what to say where they are not GPT-2's."""
    weights = run.result("download")["weights"]
    fallback = weights["name"] in STARTS
    note = f"This run started from {STARTS[weights['name']]}, not from GPT-2. {HOW_TO_GET_GPT2}" if fallback else ""
    return {"name": weights["name"], "source": weights["source"], "fallback": fallback, "note": note,
            "sha256": weights.get("sha256", {})}


def _pretrain(recipe: Recipe, run: Run) -> dict:
    model, tokenizer = best_model(recipe, run)
    start = base_weights(recipe, run).load().model
    card = read_json(run.path("data", "card.json"))
    parts: dict[str, dict] = {"val": {}}
    offset = 0
    for name, counts in card["sources"].items():
        if size := counts["val"]["tokens"]:
            parts["val"][name] = packed_tokens(recipe, run, model.gpt, tokenizer, "val", offset, offset + size)
            offset += size
    if "eval" in card:
        parts["eval"] = {card["eval"]["name"]: packed_tokens(recipe, run, model.gpt, tokenizer, "eval")}
    with timed() as seconds:
        device = torch.device(device_type())
        before = NextToken(getattr(start, "gpt", start)).to(device)
        found = pretrain.evaluate(before, model.to(device), tokenizer, parts, recipe.evaluate.resamples, device)
    weights = run.result("download")["weights"]
    fallback = weights["name"] in STARTS
    evaluation = {"schema_version": 1, "task": recipe.task, "method": run.result("train")["method"],
                  "weights": weights | {"fallback": fallback, "note": ""}, **found, "seconds": round(seconds(), 3)}
    write_json(run.path("eval.json"), evaluation)
    say(language.verdict(evaluation))
    return {"headline": evaluation["headline"], "verdict": language.verdict(evaluation)}


def _classify(recipe: Recipe, run: Run) -> dict:
    with timed() as seconds, torch.inference_mode():
        prepared = run.result("prepare")
        labels = prepared["labels"]
        positive = positive_label(recipe, labels)
        headline = recipe.evaluate.metric
        if headline == "auto":
            headline = "f1" if len(labels) == 2 else "accuracy"
        model, tokenizer = best_model(recipe, run)
        model.to(device_type())
        records = {name: read_records(run, name) for name in SPLITS}
        parts = {name: classify.examples(records[name], labels, tokenizer, prepared["max_length"]) for name in SPLITS}
        logits = {name: classify.predict_logits(model, parts[name].ids, show=f"{name} rows")
                  for name in ("val", "test")}
        found, probabilities, predicted = score_classifier(
            labels=labels, positive=positive, threshold_rule=recipe.evaluate.threshold,
            headline=headline, resamples=recipe.evaluate.resamples, seed=recipe.train.seed,
            texts={name: [record["text"] for record in records[name]] for name in SPLITS},
            targets={name: parts[name].targets for name in SPLITS}, logits=logits, normalise=normalise_text)
    evaluation = {"schema_version": 1, "task": recipe.task, "method": run.result("train")["method"],
                  "weights": weights_used(run), **found, "seconds": round(seconds(), 3)}
    write_json(run.path("eval.json"), evaluation)
    _write_predictions(run, records["test"], labels, predicted, probabilities)
    say(verdict(evaluation))
    return {"headline": evaluation["headline"], "verdict": verdict(evaluation)}


def _write_predictions(run: Run, records: list[dict], labels: list[str], predicted, probabilities) -> None:
    with atomic_write(run.path("predictions.csv")) as file:
        writer = table_writer(file)
        writer.writerow(["row", "text", "label", "predicted", "probability", *(f"p_{i}" for i in range(len(labels)))])
        for record, guess, p in zip(records, predicted, probabilities, strict=True):
            writer.writerow([record["row"], defuse(record["text"]), defuse(record["label"]), defuse(labels[guess]),
                             f"{p[guess]:.6f}", *(f"{value:.6f}" for value in p)])


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
