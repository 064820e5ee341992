"""A classifier's bundle: a GPT2ForSequenceClassification directory with all that a prediction needs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from finetune.checkpoints.store import write_checkpoint
from finetune.errors import WeightsError
from finetune.export.hf import TOLERANCE, their_logits
from finetune.files import read_json, replace_directory, sha256_json
from finetune.models.heads import Classifier
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.tasks.classify.data import ClassifierCard
from finetune.tasks.classify.score import ClassifierEvaluation
from finetune.tokenizer import Tokenizer
from finetune.training.predict import encode, predict_logits


def write_bundle(run: Run, recipe: Recipe, model: Classifier, tokenizer: Tokenizer, texts: list[str]) -> dict:
    """Write ``export/hf`` and, where transformers is installed, compare it on `texts`. Returns the figures.

    Raises WeightsError, and leaves an older export in its place, if a logit differs by more than the tolerance.
    """
    evaluation, data = (kind.from_json(read_json(path), path) for kind, path in (
        (ClassifierEvaluation, run.path("eval.json")), (ClassifierCard, run.path("data", "card.json"))))
    prepared = run.result("prepare")
    card = {
        "schema_version": 1, "task": recipe.task, "labels": prepared["labels"], "positive": evaluation.positive,
        "columns": data.columns, "max_length": prepared["max_length"], "threshold": evaluation.threshold,
        "temperature": evaluation.temperature, "weights": evaluation.weights.to_json(),
        "tokenizer_sha256": tokenizer.fingerprint(), "data_sha256": run.result("download")["data"]["sha256"],
        "recipe_sha256": sha256_json(recipe.model_dump())}
    return save_bundle(run.path("export", "hf"), model, tokenizer, card, texts,
                       lambda checked: readme(run.name, card, checked, _facts(evaluation, data)))


def save_bundle(directory: Path, model: Classifier, tokenizer: Tokenizer, card: dict, texts: list[str],
                describe: Callable[[dict], str]) -> dict:
    """Write a bundle whole or not at all, compared in transformers on `texts` first. Returns the figures.

    card: what bundle.json holds. describe: from those figures to the README's text.
    """
    labels, draft = card["labels"], directory.with_name(f".{directory.name}-draft")
    config = {"num_labels": len(labels), "id2label": {str(i): label for i, label in enumerate(labels)},
              "label2id": {label: i for i, label in enumerate(labels)}, "problem_type": "single_label_classification"}
    write_checkpoint(draft, model, tokenizer, config, {"bundle.json": json.dumps(card, indent=2, ensure_ascii=False)})
    try:
        checked = compare_with_transformers(draft, model, tokenizer, texts, card["max_length"])
        (draft / "README.md").write_text(describe(checked), encoding="utf-8", newline="\n")
        replace_directory(directory, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return checked


def compare_with_transformers(directory: Path, model: Classifier, tokenizer: Tokenizer, texts: list[str],
                              max_length: int) -> dict:
    """Load the directory in transformers and compare token ids, logits and labels on `texts`."""
    try:
        from transformers import AutoTokenizer, GPT2ForSequenceClassification
        from transformers.utils import logging as transformers_logging
    except ImportError:
        return {"compared": False, "summary": "written; not compared, transformers is not installed"}
    transformers_logging.disable_progress_bar()  # a bar for a file that is read in no time
    theirs, loading = GPT2ForSequenceClassification.from_pretrained(directory, output_loading_info=True)
    odd = {key: sorted(map(str, value)) for key, value in loading.items() if value}
    their_tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = encode(tokenizer, texts, max_length)
    same_ids = sum(their_tokenizer(text, truncation=True, max_length=max_length)["input_ids"] == row
                   for text, row in zip(texts, ids, strict=True))
    ours, other = predict_logits(model, ids), their_logits(theirs, ids, tokenizer.end_of_text)
    difference = float(np.abs(ours - other).max())
    same_labels = int((ours.argmax(1) == other.argmax(1)).sum())
    if odd or difference > TOLERANCE or same_labels < len(texts) or same_ids < len(texts):
        raise WeightsError("transformers reads the export differently",
                           got=f"largest logit difference {difference:.2e}, {same_labels} of {len(texts)} labels and "
                               f"{same_ids} token lists equal, loading {odd or 'clean'}",
                           do="This is a fault of ours or of that version of transformers: please report it.")
    return {"compared": True, "texts": len(texts), "max_logit_difference": difference, "same_labels": same_labels,
            "summary": f"transformers gives the same labels on {same_labels} of {len(texts)} texts, largest logit "
                       f"difference {difference:.1e}"}


def _facts(evaluation: ClassifierEvaluation, data: ClassifierCard) -> list[str]:
    """How good a run's model is, and what it learnt from."""
    headline = evaluation.headline
    return [f"{headline.metric} on {headline.n:,} held-out texts: {headline.value:.4f} "
            f"(95 % interval {headline.low:.4f} to {headline.high:.4f})",
            f"data: {data.name} ({data.source}); licence: {data.licence or 'not stated'}"
            + (f"; cite: {data.citation}" if data.citation else "")]


def readme(name: str, card: dict, checked: dict, facts: list[str]) -> str:
    """The README of a bundle."""
    weights = card["weights"]
    lines = [
        f"# {name}", "",
        f"A GPT-2 text classifier with the labels {', '.join(f'`{label}`' for label in card['labels'])}, "
        f"made by gpt2-finetune from {weights['name']} ({weights['source']}).", "",
        *([weights["note"], ""] if weights["note"] else []),
        *(f"- {fact}" for fact in facts),
        f"- texts are cut at {card['max_length']} tokens; temperature {card['temperature']:.3f}, "
        f"threshold {card['threshold']}",
        f"- {checked['summary']}", "",
        "## Use", "", "    finetune predict DIRECTORY \"a text\"", "",
        "or, without this project:", "", "    from transformers import pipeline",
        "    classify = pipeline(\"text-classification\", \"DIRECTORY\")", "    classify(\"a text\")", "",
        "transformers applies neither temperature nor threshold; both stand in bundle.json.", ""]
    return "\n".join(lines)
