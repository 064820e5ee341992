"""Several classifiers on the same test rows: each pair's difference, its test, and what the tests say together."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from finetune.evaluation.intervals import holm, mcnemar, paired_bootstrap
from finetune.evaluation.results import Difference

_RESAMPLES, _SEED = 1000, 0


@dataclass(frozen=True)
class Pair:
    """Two classifiers: the accuracy of `one` minus that of `other`, McNemar's p and the same after Holm's correction."""

    one: str
    other: str
    difference: Difference
    only_one: int  # rows that `one` alone gets right
    only_other: int
    p_value: float
    corrected: float

    @property
    def differs(self) -> bool:
        """Whether the difference is more than noise."""
        return self.corrected < 0.05


def compare_pairs(right: Mapping[str, np.ndarray]) -> list[Pair]:
    """Every pair of classifiers. right: name -> bool (n,), whether each row is predicted correctly."""
    pairs = list(combinations(right, 2))
    p_values = [mcnemar(right[one], right[other]) for one, other in pairs]
    return [
        Pair(
            one,
            other,
            paired_bootstrap(right[one], right[other], _RESAMPLES, _SEED),
            int((right[one] & ~right[other]).sum()),
            int((right[other] & ~right[one]).sum()),
            p,
            corrected,
        )
        for (one, other), p, corrected in zip(pairs, p_values, holm(p_values), strict=True)
    ]
