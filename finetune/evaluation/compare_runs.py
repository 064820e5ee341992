"""Several runs on the same test rows: the difference of each pair, with a test corrected for the number of pairs."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from finetune.evaluation.intervals import holm, mcnemar, paired_bootstrap
from finetune.evaluation.results import Difference

_RESAMPLES, _SEED = 1000, 0
_SIGNS = 10_000  # random signs of the paired differences


@dataclass(frozen=True)
class TestedRows:
    """A run's outputs for its test rows, and the score of each."""

    rows: list[tuple[str, str, str]]  # row number, text, target
    given: list[str]
    metric: str  # higher is better
    scores: np.ndarray  # (n,); NaN where the metric leaves a row out
    share: bool  # whether each row scores 0 or 1
    texts: bool = False  # whether targets and outputs are texts, not labels


@dataclass(frozen=True)
class Pair:
    """Two runs: the mean score of `one` minus that of `other`, its p value, and the same after Holm's correction."""

    one: str
    other: str
    difference: Difference
    only_one: int  # rows on which `one` scores higher
    only_other: int
    p_value: float
    corrected: float

    @property
    def differs(self) -> bool:
        """Whether the difference is more than noise."""
        return self.corrected < 0.05


def compare_pairs(scores: Mapping[str, np.ndarray], share: bool = True) -> list[Pair]:
    """Every pair of runs. scores: name -> (n,), the score of each row, 0 or 1 if `share`.

    Shares: McNemar's exact test. Other scores: the mean's permutation test, which flips the signs of the rows'
    differences at random (Fisher 1935).
    """
    pairs = list(combinations(scores, 2))
    test = mcnemar if share else sign_flips
    p_values = [test(scores[one], scores[other]) for one, other in pairs]
    return [
        Pair(
            one,
            other,
            paired_bootstrap(scores[one], scores[other], _RESAMPLES, _SEED),
            int((scores[one] > scores[other]).sum()),
            int((scores[one] < scores[other]).sum()),
            p,
            corrected,
        )
        for (one, other), p, corrected in zip(pairs, p_values, holm(p_values), strict=True)
    ]


def sign_flips(one: np.ndarray, other: np.ndarray) -> float:
    """The p value of the mean difference of two scores (n,) of the same rows."""
    difference = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    difference = difference[difference != 0]
    if not len(difference):
        return 1.0
    generator, extreme = np.random.default_rng(_SEED), 0
    for _ in range(_SIGNS // 100):  # in parts, to bound the memory
        signs = generator.integers(0, 2, (100, len(difference)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ difference) >= abs(difference.sum()) * (1 - 1e-12)).sum())
    return (extreme + 1) / (_SIGNS + 1)
