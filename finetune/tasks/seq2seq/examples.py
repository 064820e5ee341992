"""Tokenize pairs once; the training examples are a view of these tokens."""

from dataclasses import dataclass

import numpy as np

from finetune.tasks import writing
from finetune.tasks.seq2seq.layout import Pair
from finetune.tasks.seq2seq.pairs import TextPair
from finetune.tokenizer import Tokenizer
from finetune.training.token_rows import TokenRows, encode


@dataclass(frozen=True)
class Tokens:
    """The tokens of one split's pairs."""

    source: TokenRows
    target: TokenRows


@dataclass(frozen=True)
class Examples(writing.Examples):
    """The pairs of a split that fit. Long sources are truncated at the end, targets never."""

    tokens: Tokens
    family: str

    def pair(self, row: int) -> Pair:
        """A row as the model reads it."""
        target = self.tokens.target[self.at[row]]
        return Pair(self.tokens.source[self.at[row]][: source_room(self.family, self.max_length, len(target))], target)

    def sides(self) -> tuple[list[int], list[int]]:
        """Tokens of each row's truncated source, and of its target."""
        source, target = (np.array(side.lengths())[self.at] for side in (self.tokens.source, self.tokens.target))
        return np.minimum(source, source_room(self.family, self.max_length, target)).tolist(), target.tolist()

    def lengths(self) -> list[int]:
        """Tokens of each row: source, separator and target."""
        return [source + 1 + target for source, target in zip(*self.sides(), strict=True)]

    def loss_tokens(self) -> list[int]:
        """Supervised tokens of each row: the target and its end token."""
        return [target + 1 for target in self.sides()[1]]

    def sources(self, room: int) -> list[list[int]]:
        """The first `room` tokens of each row's source, for generation."""
        return [self.tokens.source[at][:room] for at in self.at]


def tokenize(records: list[TextPair], tokenizer: Tokenizer) -> Tokens:
    """The tokens of one split's pairs."""
    sides = [record.source for record in records], [record.target for record in records]
    return Tokens(*(encode(tokenizer, side) for side in sides))


def make_examples(records: list[TextPair], tokens: Tokens, max_length: int, family: str) -> Examples:
    """The pairs of a split whose target leaves room for at least one source token.

    max_length: maximum tokens of source, separator and target together in the family `decoder`, of each side otherwise.
    """
    source, target = (np.array(side.lengths()) for side in (tokens.source, tokens.target))
    room = source_room(family, max_length, target)
    return Examples.of(
        records, (room >= 1) & (target < max_length), source > room, max_length=max_length, tokens=tokens, family=family
    )


def source_room(family: str, max_length: int, target: int | np.ndarray) -> int | np.ndarray:
    """Maximum tokens of a source. target: tokens of its target."""
    return max_length - target - 1 if family == "decoder" else max_length


def writing_room(family: str, max_length: int, context: int, max_new_tokens: int) -> int:
    """Maximum tokens of a source for generation; a longer source is truncated at the end.

    max_length: as in training. In the family `decoder` the source leaves room for `max_new_tokens` in the model's
    context, but keeps at least half of the context.
    """
    if family == "encoder-decoder":
        return max_length
    return min(max_length - 1, max(context - max_new_tokens - 1, context // 2))
