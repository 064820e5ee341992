"""The files of a learning curve: a result.json per training, and comparison.json."""

from dataclasses import dataclass

from finetune.comparisons.results import Basis, Comparison
from finetune.evaluation.extrapolation import ExpectedError, PowerLaw
from finetune.evaluation.results import Difference, Metric
from finetune.records import Record


@dataclass(frozen=True, kw_only=True)
class CurveTraining(Basis):
    """The content of a result.json: the test predictions of one training, and of TF-IDF trained on the same rows."""

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
    """The mean results of the trainings on one share of the rows, on the same test rows."""

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
    """A curve fitted to the errors of all trainings, and the errors that it predicts."""

    law: PowerLaw
    now: ExpectedError  # with the existing rows
    double: ExpectedError
    quadruple: ExpectedError
    back: ExpectedError | None  # predicted for all rows from the smaller shares; None if these are too few
    measured: float  # the error on all rows


@dataclass(frozen=True, kw_only=True)
class CurveComparison(Comparison):
    """The content of comparison.json."""

    points: list[CurvePoint]
    threads: int
    validation_rows: int
    baseline_note: str
    model: Extrapolated | None  # None if there are too few trainings
    baseline: Extrapolated | None
