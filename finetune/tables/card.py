"""What a data card says of rows that were divided and turned into examples of tokens."""

from dataclasses import dataclass

import numpy as np

from finetune.evaluation.leakage import OverlapCounts
from finetune.records import DataOrigin, Record


@dataclass(frozen=True)
class TokenSpread(Record):
    """How long texts are, in tokens."""

    median: int
    p95: int
    max: int


@dataclass(frozen=True)
class SplitSize(Record):
    """How many rows a split has, how many of them fit, and their tokens."""

    records: int
    used: int
    tokens: int
    learnt_tokens: int


@dataclass(frozen=True, kw_only=True)
class ExamplesCard(DataOrigin):
    """The part of data/card.json that every task with written answers has."""

    records: int
    example: str  # as the model reads it
    protocol: str
    seed: int
    splits: dict[str, SplitSize]
    cut_rows: list[int]
    left_out_rows: list[int]
    overlap: dict[str, OverlapCounts]
    notes: list[str]


def token_spread(counts: list[int]) -> TokenSpread:
    """The spread of token counts."""
    return TokenSpread(int(np.median(counts)), int(np.percentile(counts, 95)), max(counts))
