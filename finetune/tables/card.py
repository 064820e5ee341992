"""The data card of rows after splitting and tokenisation."""

from dataclasses import dataclass

import numpy as np

from finetune.evaluation.leakage import OverlapCounts
from finetune.records import DataOrigin, Record


@dataclass(frozen=True)
class TokenSpread(Record):
    """Text lengths in tokens."""

    median: int
    p95: int
    max: int


@dataclass(frozen=True)
class SplitSize(Record):
    """Rows of a split, how many fit the context, and their tokens."""

    records: int
    used: int
    tokens: int
    learnt_tokens: int  # tokens that the loss is computed on


@dataclass(frozen=True, kw_only=True)
class ExamplesCard(DataOrigin):
    """The part of data/card.json shared by all generative tasks."""

    records: int
    example: str  # as the model sees it
    protocol: str
    seed: int
    splits: dict[str, SplitSize]
    cut_rows: list[int]
    left_out_rows: list[int]
    overlap: dict[str, OverlapCounts]
    notes: list[str]


def token_spread(counts: list[int]) -> TokenSpread:
    """The distribution of token counts."""
    return TokenSpread(int(np.median(counts)), int(np.percentile(counts, 95)), max(counts))
