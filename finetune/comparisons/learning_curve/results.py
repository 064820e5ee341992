"""What a learning curve writes: a result.json of each training, and comparison.json."""

from dataclasses import dataclass

from finetune.comparisons.results import Basis, Comparison
from finetune.evaluation.extrapolation import ExpectedError, PowerLaw
from finetune.evaluation.results import Difference, Metric
from finetune.records import Record


@dataclass(frozen=True, kw_only=True)
class CurveTraining(Basis):
    """What a result.json holds: what one training, and TF-IDF on the same rows, predict for the test rows."""

    threads: int
    train_rows: int
    predicted: list[int]  # classes
    baseline_predicted: list[int]
    baseline_note: str
    seconds: float
    baseline_seconds: float
    epochs: float
    method: str


@dataclass(frozen=True, kw_only=True)
class CurvePoint(Record):
    """The trainings on one share of the rows, as means over them, on the same test rows."""

    share: float
    rows: int
    accuracy: Metric
    baseline: Metric
    f1: Metric  # of the positive label, or macro
    baseline_f1: Metric
    difference: Difference  # in accuracy, the model's minus TF-IDF's
    p_value: float
    by_seed: list[float]  # accuracy of each training
    baseline_by_seed: list[float]
    seconds: float  # mean
    method: str


@dataclass(frozen=True, kw_only=True)
class Extrapolated(Record):
    """A curve through the errors of all trainings, and what it expects."""

    law: PowerLaw
    now: ExpectedError  # with the rows that there are
    double: ExpectedError
    quadruple: ExpectedError
    back: ExpectedError | None  # of all rows, from the smaller shares alone; None for too few of them
    measured: float  # the error on all rows


@dataclass(frozen=True, kw_only=True)
class CurveComparison(Comparison):
    """What comparison.json holds."""

    points: list[CurvePoint]
    threads: int
    validation_rows: int
    baseline_note: str
    model: Extrapolated | None  # None for too few trainings
    baseline: Extrapolated | None
