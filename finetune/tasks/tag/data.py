"""Sentences divided into splits, cut into the model's tokens and counted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.errors import DataError
from finetune.evaluation.leakage import overlap
from finetune.recipe import Recipe
from finetune.records import DataOrigin
from finetune.tables.card import token_spread
from finetune.tables.splits import SPLITS, fold_text
from finetune.tasks.tag.card import SplitCounts, TagCard
from finetune.tasks.tag.sentences import Sentence, Sentences
from finetune.tasks.tag.spans import OUTSIDE, spans_of
from finetune.tasks.writing import count_different, divide, overlap_notes
from finetune.tokenizer import Tokenizer
from finetune.training.token_rows import TokenRows

Splits = dict[str, list[Sentence]]


@dataclass(frozen=True)
class Tokens:
    """The tokens of sentences, and where each word ends in them."""

    pieces: TokenRows  # tokens of each sentence, truncated to the model's context
    lasts: TokenRows  # position of each word's last token; a truncated word has none


def divide_sentences(recipe: Recipe, source: Sentences, given: dict[str, Sentences]) -> Splits:
    """The sentences of each split; equal ones share a split. given: val or test from separate files, used as they are.

    Raises DataError if a split has no sentence or no entity.
    """
    shares = [
        0.0 if side in given else share
        for side, share in (("val", recipe.split.val_fraction), ("test", recipe.split.test_fraction))
    ]
    texts = [own.text for own in source.sentences]
    parts = divide(texts, recipe.split, *shares)
    found = {name: [source.sentences[at] for at in parts[name]] for name in SPLITS}
    found |= {side: own.sentences for side, own in given.items()}
    for name, part in found.items():
        if not any(tag != OUTSIDE for sentence in part for tag in sentence.tags):
            raise DataError(
                f"no entity in the {name} split",
                got=f"{len(part)} of {count_different(texts)} different sentences",
                known="each split needs sentences with entities",
                do="Add sentences, or raise split.val_fraction and split.test_fraction.",
            )
    return found


def tags_in(splits: Splits) -> list[str]:
    """All tags of a model, O first: B and I of every kind, so that each name can have several words."""
    kinds = sorted({tag[2:] for part in splits.values() for own in part for tag in own.tags if tag != OUTSIDE})
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI")]


def encode_words(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], max_length: int) -> Tokens:
    """Tokens of sentences; each word but the first includes the space before it.

    These are the tokens of the joined text, since no token of GPT-2 crosses a space.
    """
    spaced = [[word if at == 0 else f" {word}" for at, word in enumerate(words)] for words in sentences]
    encoded = iter(tokenizer.encode_batch([word for words in spaced for word in words]))
    pieces, lasts = [], []
    for words in spaced:
        own = [next(encoded) for _ in words]
        pieces.append([token for word in own for token in word][:max_length])
        lasts.append([end - 1 for end in np.cumsum([len(word) for word in own]).tolist() if end <= max_length])
    return Tokens(TokenRows.of([pieces], tokenizer.vocab_size), TokenRows.of([lasts], max_length))


def prepare(
    recipe: Recipe,
    source: Sentences,
    given: dict[str, Sentences],
    tokenizer: Tokenizer,
    context: int,
    origin: DataOrigin,
) -> tuple[Splits, dict[str, Tokens], TagCard]:
    """The sentences of each split, their tokens and the data card. context: the model's maximum number of input tokens."""
    max_length = min(recipe.max_length or context, context)
    splits = divide_sentences(recipe, source, given)
    tokens = {name: encode_words(tokenizer, [own.words for own in part], max_length) for name, part in splits.items()}
    lost = {
        own.row: len(own.words) - kept
        for name, part in splits.items()
        for own, kept in zip(part, tokens[name].lasts.lengths(), strict=True)
        if kept < len(own.words)
    }
    both = overlap({name: [own.text for own in part] for name, part in splits.items()}, fold_text)
    dropped = Counter(source.dropped)
    for own in given.values():
        dropped += Counter(own.dropped)
    example = next(own for own in splits["train"] if any(tag != OUTSIDE for tag in own.tags))
    card = TagCard(
        **vars(origin),
        protocol=recipe.split.protocol,
        seed=recipe.split.seed,
        given=sorted(given),
        splits={name: _counts(part, tokens[name]) for name, part in splits.items()},
        tokens=token_spread([length for own in tokens.values() for length in own.pieces.lengths()]),
        max_length=max_length,
        cut_rows=sorted(lost),
        cut_words=sum(lost.values()),
        dropped=dict(dropped),
        overlap=both,
        example="\n".join(f"{word}\t{tag}" for word, tag in zip(example.words, example.tags, strict=True)),
        notes=[*source.notes, *overlap_notes(both, "sentence")],
    )
    return splits, tokens, card


def _counts(part: list[Sentence], tokens: Tokens) -> SplitCounts:
    names = Counter(span.kind for own in part for span in spans_of(own.tags))
    return SplitCounts(
        len(part), sum(len(own.words) for own in part), sum(tokens.pieces.lengths()), dict(sorted(names.items()))
    )
