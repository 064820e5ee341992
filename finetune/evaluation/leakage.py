"""Leakage: texts that occur in more than one split."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from finetune.records import Record

_PAIRS = (("val", "train"), ("test", "train"), ("test", "val"))


@dataclass(frozen=True)
class OverlapCounts(Record):
    """How many of the `n` rows of a split also occur in another, exactly and after normalisation."""

    exact: int
    normalised: int
    n: int


def overlap(texts_by_split: dict[str, list[str]], normalise: Callable[[str], str]) -> dict[str, OverlapCounts]:
    """Count rows of one split that occur in another, with keys such as ``test_in_train``.

    `texts_by_split`: the texts of train, val and test; `normalise`: str -> str. The normalised count includes the
    exact matches; n is the number of rows in the first split.
    """
    exact = {split: set(texts) for split, texts in texts_by_split.items()}
    folded = {split: [normalise(text) for text in texts] for split, texts in texts_by_split.items()}
    folded_sets = {split: set(texts) for split, texts in folded.items()}
    counts = {}
    for split, other in _PAIRS:
        if split in texts_by_split and other in texts_by_split:
            counts[f"{split}_in_{other}"] = OverlapCounts(
                exact=sum(text in exact[other] for text in texts_by_split[split]),
                normalised=sum(text in folded_sets[other] for text in folded[split]),
                n=len(texts_by_split[split]),
            )
    return counts


def clean_rows(train_and_val_texts: list[str], test_texts: list[str], normalise: Callable[[str], str]) -> np.ndarray:
    """bool (n,): the test rows whose normalised text is in no other split."""
    seen = {normalise(text) for text in train_and_val_texts}
    return np.array([normalise(text) not in seen for text in test_texts], dtype=bool)
