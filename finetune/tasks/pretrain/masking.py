"""BERT's masking: which tokens are hidden, and what stands in their place.

Devlin et al. 2019, arXiv:1810.04805, section 3.1 and appendix A.1; drawn anew in each epoch (RoBERTa, Liu et al. 2019,
arXiv:1907.11692, section 4.1).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from finetune.models.gpt import IGNORE
from finetune.tokenizer import MASK, Tokenizer
from finetune.training.collate import padded

SHARE = 0.15  # of the tokens are to be predicted
AS_MASK, AS_RANDOM = 0.8, 0.1  # of these become the mask or any token; the others stay


@dataclass(frozen=True)
class Masking:
    """How rows of one vocabulary are masked: a pure function of (seed, epoch, row), so nothing has to be stored.

    special: ids that are never hidden and never put in, the mask and a pad among them.
    """

    mask: int
    special: Collection[int]
    vocab_size: int
    seed: int

    def count(self, ids: list[int]) -> int:
        """How many tokens of a row are to be predicted, at least one where there is any; the same in each epoch."""
        ordinary = sum(token not in self.special for token in ids)
        return max(round(SHARE * ordinary), 1) if ordinary else 0

    def apply(self, ids: list[int], epoch: int, row: int, ignore: int) -> tuple[np.ndarray, np.ndarray]:
        """A row's inputs and targets, (T,) each; a target is the token that was there, or `ignore`."""
        random = np.random.default_rng([self.seed, epoch, row])
        inputs = np.array(ids, dtype=np.int64)
        special = np.array(sorted(self.special))
        chosen = random.choice(np.flatnonzero(~np.isin(inputs, special)), self.count(ids), replace=False)
        targets = np.full(len(inputs), ignore)
        targets[chosen] = inputs[chosen]
        fate = random.random(len(chosen))
        inputs[chosen[fate < AS_MASK]] = self.mask
        other = chosen[(fate >= AS_MASK) & (fate < AS_MASK + AS_RANDOM)]
        inputs[other] = random.choice(np.setdiff1d(np.arange(self.vocab_size), special), len(other))
        return inputs, targets


def choose_masking(tokenizer: Tokenizer, seed: int) -> tuple[Masking, int, str]:
    """How texts of this vocabulary are masked, how many rows the embedding needs for it, and that in words.

    A vocabulary without the mask, as GPT-2's, gets one token more, behind all others.
    """
    new = int(MASK not in tokenizer.special_tokens)
    mask = tokenizer.special_tokens.get(MASK, tokenizer.vocab_size)
    special = frozenset({*tokenizer.special_tokens.values(), mask})
    said = (
        f"this vocabulary has no {MASK}: the encoder's embedding gets one row for it"
        if new
        else f"the vocabulary's own {MASK} hides tokens"
    )
    return Masking(mask, special, tokenizer.vocab_size + new, seed), new, said


def masked_batch(
    rows: Sequence[list[int]], numbers: list[int], epoch: int, masking: Masking
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and where the inputs are no pads, (B, T) each. numbers: the rows' own."""
    drawn = [masking.apply(row, epoch, number, IGNORE) for row, number in zip(rows, numbers, strict=True)]
    inputs, attention_mask = padded([own.tolist() for own, _ in drawn], masking.mask)
    targets, _ = padded([own.tolist() for _, own in drawn], IGNORE)
    return inputs, targets, attention_mask
