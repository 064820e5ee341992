"""Pairs of source and target as one sequence for a decoder, or as two for an encoder-decoder.

The end-of-text token separates source from target in the one form and starts the target in the other; in both it ends
it. In both the same tokens are supervised: those of the target and its end.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.training.collate import pad_ids, padded


@dataclass(frozen=True)
class Pair:
    """Token ids of a source and its target. ends: whether an end-of-text token is to follow; none in running text.

    separated: whether one stands between them where they are one sequence.
    """

    source: list[int]
    target: list[int]
    ends: bool = True
    separated: bool = True

    def answer(self, end: int) -> list[int]:
        """What is to be predicted."""
        return self.target + [end] * self.ends


def one_sequence(pairs: list[Pair], end: int, ignore: int, whole: bool = False) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T) of a decoder; whole: the source is supervised, too, as running text is."""
    rows = [pair.source + [end] * pair.separated + pair.answer(end) for pair in pairs]
    inputs, _ = pad_ids([row[:-1] for row in rows], end)
    targets = torch.full_like(inputs, ignore)
    for own, row, pair in zip(targets, rows, pairs, strict=True):
        first = 1 if whole else len(row) - len(pair.answer(end))
        own[first - 1 : len(row) - 1] = torch.tensor(row[first:])
    return inputs, targets


def two_sequences(pairs: list[Pair], end: int, ignore: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Source ids (B, S), target ids (B, T), targets (B, T) and where the source has tokens (B, S)."""
    source, real = padded([pair.source for pair in pairs], end)
    answers = [pair.answer(end) for pair in pairs]
    inputs, _ = pad_ids([[end, *answer[:-1]] for answer in answers], end)
    targets, _ = pad_ids(answers, ignore)
    return source, inputs, targets, real


def pieces(documents: list[list[int]], half: int, end: int) -> list[Pair]:
    """Running text as pairs: so many tokens, and as many or fewer that follow them in the same document.

    A document begins with the end-of-text token; what is left at its end is used if more than a source is.
    """
    found = []
    for ids in documents:
        ids = [end, *ids]
        for start in range(0, len(ids) - half, 2 * half):
            piece = ids[start : start + 2 * half]
            found.append(Pair(piece[:half], piece[half:], ends=False, separated=False))
    return found
