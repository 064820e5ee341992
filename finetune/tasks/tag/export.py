"""A tagger as it is handed over to be written: transformers' GPT2ForTokenClassification, compared before it is there."""

import json
from pathlib import Path

import numpy as np

from finetune.checkpoints.convert import gpt_tensors
from finetune.checkpoints.store import hugging_face_config, tokenizer_config, write_directory
from finetune.console import escape_markdown
from finetune.export.card import Card
from finetune.export.exportable import TOLERANCE, Exportable, Exported, refuse
from finetune.export.hf import PLAIN_TEXTS
from finetune.export.readers import MISSING, TransformersReader, open_reader
from finetune.files import read_json, sha256_json
from finetune.recipe import Recipe
from finetune.records import Downloaded
from finetune.report.metric_text import metric_text
from finetune.run import Run
from finetune.tasks.tag.bundle import HEAD, TagBundleCard
from finetune.tasks.tag.card import TagCard
from finetune.tasks.tag.data import Tokens
from finetune.tasks.tag.job import predict_tags
from finetune.tasks.tag.model import Tagger
from finetune.tasks.tag.score import TagEvaluation
from finetune.tokenizer import Tokenizer

ARCHITECTURE = "GPT2ForTokenClassification"


def exportable_run(
    run: Run, recipe: Recipe, model: Tagger, tokenizer: Tokenizer, tags: list[str], max_length: int, tokens: Tokens
) -> Exportable:
    """A finished run's tagger. tokens: of sentences on which it is compared."""
    measured, described = run.path("eval.json"), run.path("data", "card.json")
    evaluation = TagEvaluation.from_json(read_json(measured), measured)
    data = TagCard.from_json(read_json(described), described)
    card = TagBundleCard(
        schema_version=1,
        task=recipe.task,
        tags=tags,
        max_length=max_length,
        weights=evaluation.weights,
        tokenizer_sha256=tokenizer.fingerprint(),
        data_sha256=run.result("download", Downloaded).data.sha256,
        recipe_sha256=sha256_json(recipe.model_dump()),
    )

    def layout(directory: Path) -> Exported:
        write_tagger(directory, model, tokenizer, card)
        return compare(directory, model, tokens)

    return Exportable(
        run.name,
        model.gpt,
        tokenizer,
        lambda exported: readme(run.name, card, exported, _facts(evaluation, data)),
        layout=layout,
        card=Card("token-classification", evaluation.weights, evaluation.headline, data.name),
    )


def write_tagger(directory: Path, model: Tagger, tokenizer: Tokenizer, card: TagBundleCard) -> None:
    """Write the layout of transformers, and bundle.json beside it."""
    head = {theirs: getattr(model.head, ours).detach().cpu().contiguous() for theirs, ours in HEAD.items()}
    config = hugging_face_config(model.gpt, tokenizer) | {
        "architectures": [ARCHITECTURE],
        "dtype": "float32",
        "num_labels": len(card.tags),
        "id2label": {str(at): tag for at, tag in enumerate(card.tags)},
        "label2id": {tag: at for at, tag in enumerate(card.tags)},
    }
    files = {
        "tokenizer_config.json": json.dumps(tokenizer_config(model.gpt.config), indent=2) + "\n",
        "bundle.json": json.dumps(card.to_json(), indent=2, ensure_ascii=False),
    }
    write_directory(directory, gpt_tensors(model.gpt) | head, config, tokenizer, files)


def compare(directory: Path, model: Tagger, tokens: Tokens) -> Exported:
    """Compare logits and tags of each word with what another program reads from the directory. Raises WeightsError."""
    reader = open_reader(directory, ARCHITECTURE)
    if not isinstance(reader, TransformersReader):
        some = range(min(PLAIN_TEXTS, len(tokens.pieces)))
        tokens = Tokens(tokens.pieces.take(some), tokens.lasts.take(some))
    ours = predict_tags(model, tokens)
    try:
        theirs = reader.tag(list(tokens.pieces))
    except (KeyError, ValueError, IndexError) as error:
        raise refuse(reader.name, str(error)) from error
    difference, same, words = 0.0, 0, 0
    for own, read, lasts in zip(ours, theirs, tokens.lasts, strict=True):
        at_words = read[lasts]
        difference = max(difference, float(np.abs(at_words - own).max(initial=0.0)))
        same += int((at_words.argmax(1) == own.argmax(1)).sum())
        words += len(own)
    if reader.odd or not difference <= TOLERANCE or same < words:
        raise refuse(
            reader.name,
            f"largest logit difference {difference:.2e}, {same} of {words} words' tags equal, "
            f"loading {reader.odd or 'clean'}",
        )
    return Exported(
        True,
        f"{reader.name} gives the same tags on {same:,} of {words:,} words in {len(ours):,} sentences, largest logit "
        f"difference {difference:.1e}{'' if isinstance(reader, TransformersReader) else MISSING}",
        difference,
        len(ours),
        same,
    )


def _facts(evaluation: TagEvaluation, data: TagCard) -> list[str]:
    """How good a run's model is, and what it learnt from."""
    return [
        f"F1 of names: {metric_text(evaluation.metrics['f1'], 'f1')} held-out sentences, 95 % interval",
        escape_markdown(
            f"data: {data.name} ({data.source}); licence: {data.licence or 'not stated'}"
            + (f"; cite: {data.citation}" if data.citation else "")
        ),
    ]


def readme(name: str, card: TagBundleCard, exported: Exported, facts: list[str]) -> str:
    """The README of a bundle."""
    kinds = sorted({tag[2:] for tag in card.tags if tag[1:2] == "-"})
    return "\n".join(
        [
            f"# {escape_markdown(name)}",
            "",
            f"A GPT-2 that finds names ({', '.join(map(escape_markdown, kinds))}), made by gpt2-finetune from "
            f"{escape_markdown(f'{card.weights.name} ({card.weights.source})')}.",
            "",
            *([card.weights.note, ""] if card.weights.note else []),
            *(f"- {fact}" for fact in facts),
            f"- a sentence is read up to {card.max_length} tokens",
            f"- {exported.summary}",
            "",
            "## Use",
            "",
            '    finetune predict DIRECTORY "a sentence"',
            "",
            "or, without this project. Words and punctuation marks are separated by a space, and a word's tag is that of its",
            "last token:",
            "",
            "    from transformers import AutoModelForTokenClassification, AutoTokenizer",
            '    tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")',
            '    model = AutoModelForTokenClassification.from_pretrained("DIRECTORY")',
            '    logits = model(**tokenizer("Anna lives in Oslo .", return_tensors="pt")).logits[0]',
            "    tags = [model.config.id2label[at] for at in logits.argmax(-1).tolist()]",
            "",
        ]
    )
