"""What a comparison of methods writes: a result.json of each training, and comparison.json."""

from dataclasses import dataclass

from finetune.comparisons.results import Basis, Comparison, MeasuredCandidate
from finetune.records import Record


@dataclass(frozen=True, kw_only=True)
class MethodTraining(Basis):
    """What a result.json holds: the classes that one training's model predicts for the test rows, and what it took."""

    threads: int
    predicted: list[int]
    seconds: float
    trainable: int  # parameters
    total: int
    lr: float
    precision: str
    epochs: float
    steps: int
    best_step: int
    peak_bytes: int


@dataclass(frozen=True)
class CleanAccuracy(Record):
    """The accuracy on the test rows whose text stands in no other split; it has no value where there are none."""

    value: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class MethodCandidate(MeasuredCandidate):
    """One way to adapt the weights, or TF-IDF, which trains none and has a note in their place."""

    clean: CleanAccuracy
    peak_bytes: float | None = None
    epochs: float | None = None
    trainable: int | None = None
    total: int | None = None  # parameters
    lr: float | None = None
    precision: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class MethodsComparison(Comparison):
    """What comparison.json holds. The last candidate is TF-IDF."""

    reference: str  # a candidate's name
    why: str
    seeds: int
    threads: int
    candidates: list[MethodCandidate]
