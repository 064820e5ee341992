"""The exportable form of a classifier: its label names, its bundle card and its README."""

import json
from typing import Any

import numpy as np

from finetune.console import escape_markdown
from finetune.evaluation.aims import Rule
from finetune.evaluation.choice import MODEL
from finetune.export.card import Card
from finetune.export.exportable import Exportable, Exported
from finetune.export.hf import in_transformers
from finetune.files import read_json, sha256_json
from finetune.models.heads import Classifier
from finetune.recipe import Recipe
from finetune.records import Downloaded
from finetune.run import Run
from finetune.tasks.classify.bundle import BundleCard
from finetune.tasks.classify.data import ClassifierCard
from finetune.tasks.classify.score import ClassifierEvaluation, LabelledEvaluation
from finetune.tokenizer import Tokenizer
from finetune.training.pieces import CUT, HEAD_TAIL


def exportable_run(
    run: Run,
    recipe: Recipe,
    model: Classifier,
    tokenizer: Tokenizer,
    evaluation: LabelledEvaluation,
    max_length: int,
    texts: list[str],
    targets: np.ndarray,
) -> Exportable:
    """A finished run's classifier. texts: for comparing the export's logits. targets: the numbers of their labels.

    With many labels per row, targets (n, K) says whether each text has each label.
    """
    card = run_card(run, recipe, evaluation, max_length, tokenizer.fingerprint())
    data = run_data(run)
    about = Card("text-classification", evaluation.weights, evaluation.headline, data.name, evaluation.metrics)
    return exportable(run.name, model, tokenizer, card, texts, facts_of(evaluation, data), about, targets)


def run_data(run: Run) -> ClassifierCard:
    """The data card of a run."""
    described = run.path("data", "card.json")
    return ClassifierCard.from_json(read_json(described), described)


def run_card(
    run: Run, recipe: Recipe, evaluation: LabelledEvaluation, max_length: int, tokenizer: str, winner: str = MODEL
) -> BundleCard:
    """The card of a run's bundle. tokenizer: its hash."""
    return BundleCard(
        schema_version=1,
        task=recipe.task,
        labels=evaluation.labels,
        positive=evaluation.positive,
        columns=run_data(run).columns,
        max_length=max_length,
        long_texts=recipe.classify.long_texts,
        threshold=evaluation.threshold,
        thresholds=evaluation.thresholds,
        **_rule(evaluation),
        temperature=evaluation.temperature,
        weights=evaluation.weights,
        tokenizer_sha256=tokenizer,
        data_sha256=run.result("download", Downloaded).data.sha256,
        recipe_sha256=sha256_json(recipe.model_dump()),
        white_space=recipe.columns.white_space,
        winner=winner,
    )


def exportable(
    name: str,
    model: Classifier,
    tokenizer: Tokenizer,
    card: BundleCard,
    texts: list[str],
    facts: list[str],
    about: Card | None = None,
    targets: np.ndarray | None = None,
) -> Exportable:
    """A classifier and its card. facts: lines of the README on its results and data."""
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
        lambda exported: readme(name, card, exported, facts, in_transformers(model)),
        config,
        files,
        labels,
        texts,
        targets=targets,
        max_length=card.max_length,
        card=about or Card("text-classification", card.weights),
    )


def _rule(evaluation: LabelledEvaluation) -> dict[str, Any]:
    """The rest of the decision rule: what the aim adds to a bundle's threshold."""
    rule = evaluation.decision.rule if isinstance(evaluation, ClassifierEvaluation) else Rule(aim=evaluation.aim)
    return {"aim": rule.aim, "costs": rule.costs, "abstain_below": rule.abstain_below}


def facts_of(evaluation: LabelledEvaluation, data: ClassifierCard) -> list[str]:
    """The results and the data of a run's model, as lines of the README."""
    headline = evaluation.headline
    shown = f"not defined ({headline.reason})"
    if headline.value is not None:
        shown = f"{headline.value:.4f} (95 % interval {headline.low:.4f} to {headline.high:.4f})"
    return [
        f"{headline.metric} on {headline.n:,} held-out texts: {shown}",
        escape_markdown(
            f"data: {data.name} ({data.source}); licence: {data.licence or 'not stated'}"
            + (f"; cite: {data.citation}" if data.citation else "")
        ),
    ]


def readme(name: str, card: BundleCard, exported: Exported, facts: list[str], public: bool = True) -> str:
    """The README of a bundle. public: transformers loads it, too."""
    weights = card.weights
    lines = [
        f"# {escape_markdown(name)}",
        "",
        f"A text classifier {'of any number of' if card.thresholds else 'with'} the labels "
        f"{', '.join(map(escape_markdown, card.labels))}, "
        f"made by gpt2-finetune from {escape_markdown(f'{weights.name} ({weights.source})')}.",
        "",
        *([weights.note, ""] if weights.note else []),
        *(f"- {fact}" for fact in facts),
        f"- {_reading(card)}; temperature {card.temperature:.3f}, {decision_text(card)}",
        f"- {exported.summary}",
        "",
        "## Use",
        "",
        '    finetune predict DIRECTORY "a text"',
        "",
        *(_in_transformers(card) if public else ()),
    ]
    return "\n".join(lines)


def _reading(card: BundleCard) -> str:
    """The part of a long text that is read."""
    most, quarter = card.max_length, card.max_length // 4
    if card.long_texts == CUT:
        return f"texts are truncated to {most} tokens"
    if card.long_texts == HEAD_TAIL:
        return f"of a text with more than {most} tokens the first {quarter} and the last {most - quarter} are read"
    return (
        f"a text with more than {most} tokens is read in windows of {most}, each of which shares {quarter} with the next; "
        "their averaged log-probabilities decide"
    )


def _in_transformers(card: BundleCard) -> list[str]:
    cut = (
        "`truncation=True` truncates texts to the length of training; without it, a text longer than the model's context",
        "is an error.",
    )
    return [
        "or, without this project:",
        "",
        *("    " + line for line in transformers_lines(card)),
        "",
        *(cut if card.long_texts == CUT else ()),
        "transformers applies neither temperature nor decision rule; the last lines do. Both are in bundle.json.",
        *(["Fold the white space of each text first, as in training."] if card.white_space == "fold" else []),
        "",
    ]


def _scores(card: BundleCard) -> list[str]:
    """Code that computes a text's logits, reading the text as in training."""
    most, quarter = card.max_length, card.max_length // 4
    if card.long_texts == CUT:
        return [
            "from math import exp",
            "from transformers import pipeline",
            'classify = pipeline("text-classification", "DIRECTORY", truncation=True)',
            'scores = classify("a text", top_k=None, function_to_apply="none")',
        ]
    pieces = f"ids[at : at + {most}] for at in range(0, max(len(ids) - {quarter}, 1), {most - quarter})"
    if card.long_texts == HEAD_TAIL:
        pieces = f"ids[:{quarter}] + ids[-{most - quarter}:] if len(ids) > {most} else ids"
    return [
        "from math import exp",
        "import torch",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        'tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")',
        'model = AutoModelForSequenceClassification.from_pretrained("DIRECTORY").eval()',
        'ids = tokenizer("a text")["input_ids"]',
        f"pieces = [{pieces}]",
        "with torch.no_grad():",
        "    logits = torch.stack([model(torch.tensor([piece])).logits[0] for piece in pieces]).mean(0)",
        "scores = [{'label': model.config.id2label[i], 'score': x} for i, x in enumerate(logits.tolist())]",
    ]


def transformers_lines(card: BundleCard) -> list[str]:
    """Code that predicts with transformers as ``finetune predict`` does."""
    if card.thresholds is not None:
        scaled = f"-row['score'] / {card.temperature!r}"
        return [
            *_scores(card),
            f"probabilities = {{row['label']: 1 / (1 + exp({scaled})) for row in scores}}",
            f"thresholds = {dict(zip(card.labels, card.thresholds, strict=True))!r}",
            "labels = sorted(label for label, p in probabilities.items() if p >= thresholds[label])",
        ]
    if card.positive is not None and card.threshold is not None and len(card.labels) == 2:
        [other] = [label for label in card.labels if label != card.positive]
        label = f"{card.positive!r} if probabilities[{card.positive!r}] >= {card.threshold!r} else {other!r}"
    elif card.costs is not None:
        costs = {
            label: dict(zip(card.labels, row, strict=True)) for label, row in zip(card.labels, card.costs, strict=True)
        }
        cost = f"sum(p * {costs!r}[true][label] for true, p in probabilities.items())"
        label = f"min(probabilities, key=lambda label: {cost})"
    else:
        label = "max(probabilities, key=probabilities.get)"
    abstain = card.abstain_below
    return [
        *_scores(card),
        f"odds = {{row['label']: exp(row['score'] / {card.temperature!r}) for row in scores}}",
        "probabilities = {label: odd / sum(odds.values()) for label, odd in odds.items()}",
        f"label = {label}",
        *([] if abstain is None else [f"decision = label if probabilities[label] >= {abstain!r} else 'abstain'"]),
    ]


def decision_text(card: BundleCard) -> str:
    """The decision rule in words."""
    if not card.thresholds:
        abstains = (
            "" if card.abstain_below is None else f", no decision below a probability of {card.abstain_below:.4f}"
        )
        if card.threshold is not None and card.positive is not None:
            rule = f"{escape_markdown(card.positive)} from a probability of {card.threshold:.4g}"
        else:
            rule = "the label with the least expected cost" if card.costs else "the most probable label"
        return f"decision: {rule}{abstains} (evaluate.aim={card.aim})"
    found = zip(card.labels, card.thresholds, strict=True)
    return "thresholds: " + ", ".join(f"{escape_markdown(label)} {threshold:.3f}" for label, threshold in found)
