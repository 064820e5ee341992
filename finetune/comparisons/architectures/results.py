"""The content of comparison.json for a comparison of architectures."""

from dataclasses import dataclass

from finetune.comparisons.results import Comparison, MeasuredCandidate
from finetune.records import Record


@dataclass(frozen=True)
class Layers(Record):
    """Number of blocks on each side of the encoder-decoder, and in the other architectures."""

    encoder: int
    decoder: int
    others: int


@dataclass(frozen=True, kw_only=True)
class Entry(MeasuredCandidate):
    """The results and costs of one architecture's trainings."""

    architecture: str
    peak_bytes: float
    parameters: int
    state_bytes: int  # weights and optimizer
    lr: float
    steps: int
    tokens: int
    curve: list[tuple[int, float]]  # step and validation loss, of the first seed
    examples: list[tuple[str, str, str]]  # source, reference and output, of the first seed


@dataclass(frozen=True, kw_only=True)
class Group(Record):
    """The architectures on one task with one initialisation, on the same rows."""

    task: str
    measure: str  # masked: predicts masked words; else empty
    start: str  # random, or the weights' name
    metric: str
    reference: str  # an entry's name
    entries: list[Entry]
    rows: int  # training rows
    majority: float | None = None  # accuracy of the most frequent label, for classifiers


@dataclass(frozen=True, kw_only=True)
class ArchitecturesComparison(Comparison):
    """The content of comparison.json."""

    seeds: list[int]
    layers: Layers
    sizes: dict[str, int]  # architecture -> parameters
    apart: float  # relative difference in size between the largest and the smallest
    masking: str
    piece_tokens: int
    number_limit: int
    batch_size: int
    threads: str
    precision: str
    groups: list[Group]
