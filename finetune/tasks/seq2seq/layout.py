"""Pairs of source and target as one sequence for a decoder, or as two for an encoder-decoder.

The end-of-text token separates source and target for a decoder, and starts the target for an encoder-decoder. For both
it ends the target, and the supervised tokens are the target and its end token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.training.collate import pad_ids, padded


@dataclass(frozen=True)
class Pair:
    """Token ids of a source and its target.

    ends: whether an end-of-text token follows the target; false for running text. separated: whether one separates
    source and target in one sequence.
    """

    source: list[int]
    target: list[int]
    ends: bool = True
    separated: bool = True

    def answer(self, end: int) -> list[int]:
        """The supervised tokens."""
        return self.target + [end] * self.ends


def one_sequence(pairs: list[Pair], end: int, ignore: int, whole: bool = False) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T) of a decoder. whole: the source is supervised too, as in running text."""
    rows = [pair.source + [end] * pair.separated + pair.answer(end) for pair in pairs]
    inputs, _ = pad_ids([row[:-1] for row in rows], end)
    targets = torch.full_like(inputs, ignore)
    for own, row, pair in zip(targets, rows, pairs, strict=True):
        first = 1 if whole else len(row) - len(pair.answer(end))
        own[first - 1 : len(row) - 1] = torch.tensor(row[first:])
    return inputs, targets


def two_sequences(pairs: list[Pair], end: int, ignore: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Source ids (B, S), decoder input ids (B, T), targets (B, T) and the source's attention mask (B, S)."""
    source, attention_mask = padded([pair.source for pair in pairs], end)
    answers = [pair.answer(end) for pair in pairs]
    inputs, _ = pad_ids([[end, *answer[:-1]] for answer in answers], end)
    targets, _ = pad_ids(answers, ignore)
    return source, inputs, targets, attention_mask


def pieces(documents: list[list[int]], half: int, end: int) -> list[Pair]:
    """Running text as pairs: `half` tokens as source, and up to `half` following tokens of the same document as target.

    A document begins with the end-of-text token. Its last `half` tokens or fewer are dropped if no target follows them.
    """
    found = []
    for ids in documents:
        ids = [end, *ids]
        for start in range(0, len(ids) - half, 2 * half):
            piece = ids[start : start + 2 * half]
            found.append(Pair(piece[:half], piece[half:], ends=False, separated=False))
    return found
