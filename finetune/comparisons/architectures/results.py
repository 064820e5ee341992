"""What a comparison of architectures writes to comparison.json."""

from dataclasses import dataclass

from finetune.comparisons.results import Comparison, MeasuredCandidate
from finetune.records import Record


@dataclass(frozen=True)
class Layers(Record):
    """Blocks of the encoder-decoder's two sides, and of the others."""

    encoder: int
    decoder: int
    others: int


@dataclass(frozen=True, kw_only=True)
class Entry(MeasuredCandidate):
    """One architecture's trainings: what they give and what they take."""

    architecture: str
    peak_bytes: float
    parameters: int
    state_bytes: int  # weights and optimizer
    lr: float
    steps: int
    tokens: int
    curve: list[tuple[int, float]]  # step and validation loss, of the first seed
    examples: list[tuple[str, str, str]]  # source, reference and what was written, of the first seed


@dataclass(frozen=True, kw_only=True)
class Group(Record):
    """The architectures on one task from one start, on the same rows."""

    task: str
    measure: str  # masked: of masked words; else empty
    start: str  # random, or the weights' name
    metric: str
    reference: str  # an entry's name
    entries: list[Entry]
    rows: int  # to train on
    majority: float | None = None  # accuracy of the most frequent label, where labels are learnt


@dataclass(frozen=True, kw_only=True)
class ArchitecturesComparison(Comparison):
    """What comparison.json holds."""

    seeds: list[int]
    layers: Layers
    sizes: dict[str, int]  # architecture -> parameters
    apart: float  # how much larger the largest is than the smallest, as a share
    masking: str
    piece_tokens: int
    number_limit: int
    batch_size: int
    threads: str
    precision: str
    groups: list[Group]
