"""BERT's masking: which tokens are masked, and what replaces them.

Devlin et al. 2019, arXiv:1810.04805, section 3.1 and appendix A.1; with new masks in each epoch (RoBERTa, Liu et al.
2019, arXiv:1907.11692, section 4.1).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from finetune.models.gpt import IGNORE
from finetune.tokenizer import MASK, Tokenizer
from finetune.training.collate import padded

SHARE = 0.15  # share of tokens to predict
AS_MASK, AS_RANDOM = 0.8, 0.1  # shares of these that become the mask or a random token; the others stay


@dataclass(frozen=True)
class Masking:
    """Masks rows as a pure function of (seed, epoch, row), so nothing has to be stored.

    special: ids that are never masked and never a random replacement, including the mask and padding.
    """

    mask: int
    special: Collection[int]
    vocab_size: int
    seed: int

    def count(self, ids: list[int]) -> int:
        """Number of tokens of a row to predict, at least one if the row has any; the same in each epoch."""
        ordinary = sum(token not in self.special for token in ids)
        return max(round(SHARE * ordinary), 1) if ordinary else 0

    def apply(self, ids: list[int], epoch: int, row: int, ignore: int) -> tuple[np.ndarray, np.ndarray]:
        """A row's inputs and targets, (T,) each; a target is the original token at a chosen position, else `ignore`."""
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
    """The masking for this vocabulary, the number of new embedding rows that it needs, and a phrase about it.

    A vocabulary without a mask token, such as GPT-2's, gets one as its last token.
    """
    new = int(MASK not in tokenizer.special_tokens)
    mask = tokenizer.special_tokens.get(MASK, tokenizer.vocab_size)
    special = frozenset({*tokenizer.special_tokens.values(), mask})
    said = (
        f"the vocabulary has no {MASK}, so the encoder's embedding gets one row for it"
        if new
        else f"the vocabulary's {MASK} is used"
    )
    return Masking(mask, special, tokenizer.vocab_size + new, seed), new, said


def masked_batch(
    rows: Sequence[list[int]], numbers: list[int], epoch: int, masking: Masking
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and attention mask, (B, T) each. numbers: the rows' numbers."""
    drawn = [masking.apply(row, epoch, number, IGNORE) for row, number in zip(rows, numbers, strict=True)]
    inputs, attention_mask = padded([own.tolist() for own, _ in drawn], masking.mask)
    targets, _ = padded([own.tolist() for _, own in drawn], IGNORE)
    return inputs, targets, attention_mask
