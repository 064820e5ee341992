"""A classifier as it is handed over to be written: its label names, and the card of its bundle."""

import json

from finetune.export.exportable import Exportable, Exported
from finetune.files import read_json, sha256_json
from finetune.models.heads import Classifier
from finetune.recipe import Recipe
from finetune.records import Downloaded
from finetune.run import Run
from finetune.tasks.classify.bundle import BundleCard
from finetune.tasks.classify.data import ClassifierCard
from finetune.tasks.classify.score import LabelledEvaluation
from finetune.tokenizer import Tokenizer


def exportable_run(
    run: Run,
    recipe: Recipe,
    model: Classifier,
    tokenizer: Tokenizer,
    evaluation: LabelledEvaluation,
    max_length: int,
    texts: list[str],
) -> Exportable:
    """A finished run's classifier. texts: on which it is compared."""
    described = run.path("data", "card.json")
    data = ClassifierCard.from_json(read_json(described), described)
    card = BundleCard(
        schema_version=1,
        task=recipe.task,
        labels=evaluation.labels,
        positive=evaluation.positive,
        columns=data.columns,
        max_length=max_length,
        threshold=evaluation.threshold,
        thresholds=evaluation.thresholds,
        temperature=evaluation.temperature,
        weights=evaluation.weights,
        tokenizer_sha256=tokenizer.fingerprint(),
        data_sha256=run.result("download", Downloaded).data.sha256,
        recipe_sha256=sha256_json(recipe.model_dump()),
    )
    return exportable(run.name, model, tokenizer, card, texts, _facts(evaluation, data))


def exportable(
    name: str, model: Classifier, tokenizer: Tokenizer, card: BundleCard, texts: list[str], facts: list[str]
) -> Exportable:
    """A classifier and its card. facts: lines of its README on how good it is and what it learnt from."""
    labels = card.labels
    config = {
        "num_labels": len(labels),
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": f"{'multi' if card.thresholds else 'single'}_label_classification",
    }
    files = {"bundle.json": json.dumps(card.to_json(), indent=2, ensure_ascii=False)}
    return Exportable(
        name,
        model,
        tokenizer,
        lambda exported: readme(name, card, exported, facts),
        config,
        files,
        labels,
        texts,
        card.max_length,
    )


def _facts(evaluation: LabelledEvaluation, data: ClassifierCard) -> list[str]:
    """How good a run's model is, and what it learnt from."""
    headline = evaluation.headline
    return [
        f"{headline.metric} on {headline.n:,} held-out texts: {headline.value:.4f} "
        f"(95 % interval {headline.low:.4f} to {headline.high:.4f})",
        f"data: {data.name} ({data.source}); licence: {data.licence or 'not stated'}"
        + (f"; cite: {data.citation}" if data.citation else ""),
    ]


def readme(name: str, card: BundleCard, exported: Exported, facts: list[str]) -> str:
    """The README of a bundle."""
    weights = card.weights
    lines = [
        f"# {name}",
        "",
        f"A GPT-2 text classifier {'of any number of' if card.thresholds else 'with'} the labels "
        f"{', '.join(f'`{label}`' for label in card.labels)}, "
        f"made by gpt2-finetune from {weights.name} ({weights.source}).",
        "",
        *([weights.note, ""] if weights.note else []),
        *(f"- {fact}" for fact in facts),
        f"- texts are cut at {card.max_length} tokens; temperature {card.temperature:.3f}, {_decision(card)}",
        f"- {exported.summary}",
        "",
        "## Use",
        "",
        '    finetune predict DIRECTORY "a text"',
        "",
        "or, without this project:",
        "",
        "    from transformers import pipeline",
        f'    classify = pipeline("text-classification", "DIRECTORY"{", top_k=None" if card.thresholds else ""})',
        '    classify("a text")',
        "",
        "transformers applies neither temperature nor threshold; both stand in bundle.json.",
        "",
    ]
    return "\n".join(lines)


def _decision(card: BundleCard) -> str:
    """From which probability a label is predicted."""
    if not card.thresholds:
        return f"threshold {card.threshold}"
    found = zip(card.labels, card.thresholds, strict=True)
    return "thresholds " + ", ".join(f"`{label}` {threshold:.3f}" for label, threshold in found)
