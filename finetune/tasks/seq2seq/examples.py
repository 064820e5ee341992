"""Pairs as tokens: tokenized once, whole; what a model reads of them is a view of that."""

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
    """The pairs of a split that fit. A source loses its end where it is too long, a target nothing."""

    tokens: Tokens
    family: str

    def pair(self, row: int) -> Pair:
        """A row as it is read."""
        target = self.tokens.target[self.at[row]]
        return Pair(self.tokens.source[self.at[row]][: source_room(self.family, self.max_length, len(target))], target)

    def sides(self) -> tuple[list[int], list[int]]:
        """Tokens of each row's source that are read, and of its target."""
        source, target = (np.array(side.lengths())[self.at] for side in (self.tokens.source, self.tokens.target))
        return np.minimum(source, source_room(self.family, self.max_length, target)).tolist(), target.tolist()

    def lengths(self) -> list[int]:
        """Tokens of each row, source and target and what stands between them."""
        return [source + 1 + target for source, target in zip(*self.sides(), strict=True)]

    def learnt(self) -> list[int]:
        """Supervised tokens of each row: the target and its end."""
        return [target + 1 for target in self.sides()[1]]

    def sources(self, room: int) -> list[list[int]]:
        """The first `room` tokens of each row's source: what is read where its target is not known."""
        return [self.tokens.source[at][:room] for at in self.at]


def tokenize(records: list[TextPair], tokenizer: Tokenizer) -> Tokens:
    """The tokens of one split's pairs."""
    sides = [record.source for record in records], [record.target for record in records]
    return Tokens(*(encode(tokenizer, side) for side in sides))


def make_examples(records: list[TextPair], tokens: Tokens, max_length: int, family: str) -> Examples:
    """Those of a split's pairs whose target leaves room for a token of its source.

    max_length: tokens that a stack reads: of source, separator and target in the family `decoder`, of either otherwise.
    """
    source, target = (np.array(side.lengths()) for side in (tokens.source, tokens.target))
    room = source_room(family, max_length, target)
    return Examples.of(
        records, (room >= 1) & (target < max_length), source > room, max_length=max_length, tokens=tokens, family=family
    )


def source_room(family: str, max_length: int, target: int | np.ndarray) -> int | np.ndarray:
    """Tokens of a source that are read beside a target of so many."""
    return max_length - target - 1 if family == "decoder" else max_length


def writing_room(family: str, max_length: int, context: int, max_new_tokens: int) -> int:
    """Tokens of a source that are read where its target is not known; what is over is cut at its end.

    max_length: tokens as in training. In the family `decoder` `max_new_tokens` have to have their room in the model's
    context beside it; half of the context it keeps at least.
    """
    if family == "encoder-decoder":
        return max_length
    return min(max_length - 1, max(context - max_new_tokens - 1, context // 2))
