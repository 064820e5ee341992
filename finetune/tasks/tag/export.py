"""Export a tagger as transformers' GPT2ForTokenClassification if it is a GPT-2, else in our own layout; and compare it."""

import json
from pathlib import Path

import numpy as np

from finetune.checkpoints.convert import gpt_tensors
from finetune.checkpoints.own_layout import write_own
from finetune.checkpoints.store import hugging_face_config, tokenizer_config, write_directory
from finetune.console import escape_markdown
from finetune.export.card import Card
from finetune.export.exportable import TOLERANCE, Exportable, Exported, refuse
from finetune.export.hf import PLAIN_TEXTS
from finetune.export.readers import MISSING, TransformersReader, open_reader
from finetune.files import read_json, sha256_json
from finetune.models.gpt import GPT
from finetune.recipe import Recipe
from finetune.records import Downloaded
from finetune.report.metric_text import metric_text
from finetune.run import Run
from finetune.tasks.tag.bundle import HEAD, TagBundleCard, load_tagger
from finetune.tasks.tag.card import TagCard
from finetune.tasks.tag.data import Tokens
from finetune.tasks.tag.job import predict_tags
from finetune.tasks.tag.model import Tagger
from finetune.tasks.tag.score import TagEvaluation
from finetune.tokenizer import Tokenizer

ARCHITECTURE = "GPT2ForTokenClassification"
WITH_TRANSFORMERS = (
    "or, without this project. Words and punctuation marks are separated by a space, and a word's tag is that of its",
    "last token. `truncation=True` truncates a sentence to the length of training:",
    "",
    "    import re",
    "    from transformers import AutoModelForTokenClassification, AutoTokenizer",
    '    tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")',
    '    model = AutoModelForTokenClassification.from_pretrained("DIRECTORY")',
    '    text = "Anna lives in Oslo ."',
    '    read = tokenizer(text, truncation=True, return_offsets_mapping=True, return_tensors="pt")',
    '    last = {end: at for at, (_, end) in enumerate(read.pop("offset_mapping")[0].tolist())}',
    "    found = model(**read).logits[0].argmax(-1).tolist()",
    '    words = [word for word in re.finditer(r"\\S+", text) if word.end() in last]',
    "    tags = [(word[0], model.config.id2label[found[last[word.end()]]]) for word in words]",
    "",
)


def exportable_run(
    run: Run,
    recipe: Recipe,
    model: Tagger,
    tokenizer: Tokenizer,
    tags: list[str],
    max_length: int,
    tokens: Tokens,
    texts: list[str],
) -> Exportable:
    """A finished run's tagger. tokens, texts: of the sentences to compare it on."""
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
        if not isinstance(model.body, GPT):
            return compare_read_back(directory, model, tokens)
        return compare(directory, model, tokens, texts)

    return Exportable(
        run.name,
        model.body,
        tokenizer,
        lambda exported: readme(run.name, card, exported, _facts(evaluation, data), isinstance(model.body, GPT)),
        layout=layout,
        card=Card("token-classification", evaluation.weights, evaluation.headline, data.name, evaluation.metrics),
    )


def write_tagger(directory: Path, model: Tagger, tokenizer: Tokenizer, card: TagBundleCard) -> None:
    """Write the tagger in transformers' layout or in our own, and bundle.json beside it."""
    head = {theirs: getattr(model.head, ours).detach().cpu().contiguous() for theirs, ours in HEAD.items()}
    bundle = {"bundle.json": json.dumps(card.to_json(), indent=2, ensure_ascii=False)}
    body = model.body
    if not isinstance(body, GPT):
        write_own(directory, body, tokenizer, extra_files=bundle, head=head)
        return
    config = hugging_face_config(body, tokenizer) | {
        "architectures": [ARCHITECTURE],
        "dtype": "float32",
        "num_labels": len(card.tags),
        "id2label": {str(at): tag for at, tag in enumerate(card.tags)},
        "label2id": {tag: at for at, tag in enumerate(card.tags)},
    }
    read = tokenizer_config(body.config) | {"model_max_length": card.max_length}
    files = {"tokenizer_config.json": json.dumps(read, indent=2) + "\n"} | bundle
    write_directory(directory, gpt_tensors(body) | head, config, tokenizer, files)


def compare_read_back(directory: Path, model: Tagger, tokens: Tokens) -> Exported:
    """Reload the directory and compare the logits of each word bit for bit. Raises WeightsError."""
    again = load_tagger(directory, model.head.out_features)
    ours, theirs = predict_tags(model.cpu(), tokens), predict_tags(again, tokens)
    if not all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True)):
        raise refuse("finetune", "other logits than the model that was written")
    return Exported(
        True, f"read back with equal logits of {sum(map(len, ours)):,} words; no program but this one loads it", 0.0
    )


def compare(directory: Path, model: Tagger, tokens: Tokens, texts: list[str]) -> Exported:
    """Compare token ids, logits and tags of each word with what another program reads from the directory.

    texts: the words of each sentence, separated by spaces. Raises WeightsError.
    """
    reader = open_reader(directory, ARCHITECTURE)
    if not isinstance(reader, TransformersReader):
        some = range(min(PLAIN_TEXTS, len(tokens.pieces)))
        tokens, texts = Tokens(tokens.pieces.take(some), tokens.lasts.take(some)), texts[:PLAIN_TEXTS]
    ours = predict_tags(model, tokens)
    try:
        theirs = reader.tag(list(tokens.pieces))
    except (KeyError, ValueError, IndexError) as error:
        raise refuse(reader.name, str(error)) from error
    same_ids = sum(reader.encode(text) == own for text, own in zip(texts, tokens.pieces, strict=True))
    difference, same, words = 0.0, 0, 0
    for own, read, lasts in zip(ours, theirs, tokens.lasts, strict=True):
        at_words = read[lasts]
        difference = max(difference, float(np.abs(at_words - own).max(initial=0.0)))
        same += int((at_words.argmax(1) == own.argmax(1)).sum())
        words += len(own)
    if reader.odd or not difference <= TOLERANCE or same < words or same_ids < len(texts):
        raise refuse(
            reader.name,
            f"largest logit difference {difference:.2e}, {same} of {words} words' tags "
            f"and {same_ids} of {len(texts)} token lists equal, unexpected or missing tensors: {reader.odd or 'none'}",
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
    """The results of a run's model, and its training data."""
    return [
        f"F1 of entities on held-out sentences: {metric_text(evaluation.metrics['f1'], 'f1')}, 95 % interval in brackets",
        escape_markdown(
            f"data: {data.name} ({data.source}); licence: {data.licence or 'not stated'}"
            + (f"; cite: {data.citation}" if data.citation else "")
        ),
    ]


def readme(name: str, card: TagBundleCard, exported: Exported, facts: list[str], public: bool = True) -> str:
    """The README of a bundle. public: transformers loads it as well."""
    kinds = sorted({tag[2:] for tag in card.tags if tag[1:2] == "-"})
    return "\n".join(
        [
            f"# {escape_markdown(name)}",
            "",
            f"A model that finds named entities ({', '.join(map(escape_markdown, kinds))}), made by gpt2-finetune from "
            f"{escape_markdown(f'{card.weights.name} ({card.weights.source})')}.",
            "",
            *([card.weights.note, ""] if card.weights.note else []),
            *(f"- {fact}" for fact in facts),
            f"- sentences are truncated to {card.max_length} tokens",
            f"- {exported.summary}",
            "",
            "## Use",
            "",
            '    finetune predict DIRECTORY "a sentence"',
            "",
            *(WITH_TRANSFORMERS if public else ()),
        ]
    )
