"""The data card of tagged sentences."""

from dataclasses import dataclass

from finetune.evaluation.leakage import OverlapCounts
from finetune.records import DataOrigin, Record
from finetune.tables.card import TokenSpread


@dataclass(frozen=True)
class SplitCounts(Record):
    """The size of a split."""

    sentences: int
    words: int
    tokens: int
    names: dict[str, int]  # kind -> number of names


@dataclass(frozen=True, kw_only=True)
class TagCard(DataOrigin):
    """The content of data/card.json."""

    protocol: str
    seed: int
    given: list[str]  # splits that come from separate files
    splits: dict[str, SplitCounts]
    tokens: TokenSpread  # per sentence
    max_length: int
    cut_rows: list[int]  # sentences that are truncated
    cut_words: int
    dropped: dict[str, int]
    overlap: dict[str, OverlapCounts]
    example: str
    notes: list[str]

    @property
    def kinds(self) -> list[str]:
        """The kinds of names."""
        return sorted({kind for split in self.splits.values() for kind in split.names})
