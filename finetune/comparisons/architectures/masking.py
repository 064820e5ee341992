"""BERT's masking: which tokens are hidden, and what stands in their place.

Devlin et al. 2019, arXiv:1810.04805, section 3.1 and appendix A.1; drawn anew in each epoch (RoBERTa, Liu et al. 2019,
arXiv:1907.11692, section 4.1).
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

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
