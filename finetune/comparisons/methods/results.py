"""The files of a comparison of methods: a result.json per training, and comparison.json."""

from dataclasses import dataclass

from finetune.comparisons.results import Basis, Comparison, MeasuredCandidate
from finetune.records import Record


@dataclass(frozen=True, kw_only=True)
class MethodTraining(Basis):
    """The content of a result.json: a training's predicted classes for the test rows, and its costs."""

    threads: int
    predicted: list[int]
    seconds: float
    trainable: int  # parameters
    total: int
    lr: float | None
    precision: str
    epochs: float
    steps: int
    best_step: int
    peak_bytes: int


@dataclass(frozen=True)
class CleanAccuracy(Record):
    """The accuracy on the test rows whose text occurs in no other split; None if there are no such rows."""

    value: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class MethodCandidate(MeasuredCandidate):
    """A fine-tuning method, or TF-IDF, which trains no weights and has a note instead."""

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
    """The content of comparison.json. The last candidate is TF-IDF."""

    reference: str  # a candidate's name
    why: str
    seeds: int
    threads: int
    candidates: list[MethodCandidate]
