"""Tokenize instruction records once; the training examples are a view of these tokens.

Prompts and answers are tokenized separately, so that no token spans both.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from finetune.models.gpt import IGNORE
from finetune.tasks import writing
from finetune.tasks.instruct.prompts import Piece, pieces, prompt
from finetune.tasks.instruct.records import InstructRecord
from finetune.tasks.instruct.settings import Instruct
from finetune.tokenizer import Tokenizer
from finetune.training.token_rows import TokenRows

TOGETHER = 1000  # records whose ids are held as lists at a time


@dataclass(frozen=True)
class Tokens:
    """The tokens of one split's records."""

    text: TokenRows  # a record's whole text, with the end-of-text token after every answer
    pieces: TokenRows  # number of tokens of each of its prompts and answers, alternating


@dataclass(frozen=True)
class Examples(writing.Examples):
    """The records of a split that fit. Long prompts are truncated at the start, the last answer never."""

    tokens: Tokens
    learns: str  # tokens in the loss: answer: answers with their end tokens; all: prompts too; words: answers alone

    def lengths(self) -> list[int]:
        """Input tokens of each row: all but the last."""
        total = np.array(self.tokens.text.lengths())[self.at]
        return (np.minimum(total, self.max_length + 1) - 1).tolist()

    def loss_tokens(self) -> list[int]:
        """Supervised tokens of each row."""
        if self.learns == "all":
            return self.lengths()
        return [sum(stop - start for start, stop in self._answers(at)) for at in self.at]

    def example(self, row: int) -> tuple[list[int], list[int]]:
        """A row's inputs, and the target at every position: IGNORE outside of the loss."""
        at = self.at[row]
        ids = self.tokens.text[at]
        first = self._first(len(ids))
        if self.learns == "all":
            return ids[first:-1], ids[first + 1 :]
        targets = [IGNORE] * len(ids)
        for start, stop in self._answers(at):
            targets[start:stop] = ids[start:stop]
        return ids[first:-1], targets[first + 1 :]

    def prompts(self, room: int) -> list[list[int]]:
        """Each row's prompt before its last answer, truncated to its last `room` tokens."""
        return [self.tokens.text[at][: -self.tokens.pieces[at][-1]][-room:] for at in self.at]

    def _first(self, total: int) -> int:
        """Index of the first token that is read. total: tokens of the record."""
        return max(total - self.max_length - 1, 0)

    def _answers(self, at: int) -> list[tuple[int, int]]:
        """(start, stop) of each answer's tokens in the loss; an earlier answer that is truncated is left out of the loss."""
        sizes = self.tokens.pieces[at]
        ends = list(accumulate(sizes))
        first, left = self._first(ends[-1]), int(self.learns == "words")
        return [
            (end - size, end - left) for size, end in zip(sizes[1::2], ends[1::2], strict=True) if end - size > first
        ]


def tokenize(records: list[InstructRecord], tokenizer: Tokenizer, settings: Instruct) -> Tokens:
    """The tokens of one split's records."""
    counts: list[int] = []  # of each record's pieces

    def chunks() -> Iterator[list[list[int]]]:
        for start in range(0, len(records), TOGETHER):
            parts = [_encode(pieces(record, settings), tokenizer) for record in records[start : start + TOGETHER]]
            counts.extend(map(len, parts))
            yield [ids for part in parts for ids in part]

    each = TokenRows.of(chunks(), tokenizer.vocab_size)
    ends = np.cumsum(counts)
    return Tokens(TokenRows(each.ids, each.ends[ends - 1]), TokenRows(np.array(each.lengths(), np.uint32), ends))


def make_examples(records: list[InstructRecord], tokens: Tokens, max_length: int, learns: str) -> Examples:
    """The records of a split whose last answer leaves room for at least one prompt token in `max_length` inputs."""
    total, last = np.array(tokens.text.lengths()), last_answers(tokens)
    return Examples.of(
        records, last <= max_length, total > max_length + 1, max_length=max_length, tokens=tokens, learns=learns
    )


def last_answers(tokens: Tokens) -> np.ndarray:
    """Number of tokens of each record's last answer, including the end token."""
    return np.array([sizes[-1] for sizes in tokens.pieces])


def prompt_room(context: int, settings: Instruct) -> int:
    """Maximum tokens of a prompt that leave room for an answer, but at least half of the context."""
    return max(context - settings.max_new_tokens, context // 2)


def conversation_ids(record: InstructRecord, tokenizer: Tokenizer, settings: Instruct) -> list[int]:
    """Token ids of everything before a record's last answer, with end tokens after earlier answers."""
    return [token for ids in _encode(prompt(record, settings), tokenizer) for token in ids]


def _encode(parts: Iterable[Piece], tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of each piece; the end-of-text token follows an answer."""
    return [tokenizer.encode(piece.text) + [tokenizer.end_of_text] * piece.answer for piece in parts]
