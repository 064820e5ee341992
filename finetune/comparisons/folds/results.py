"""The files of a cross-validation: a result.json per fold, and comparison.json."""

from dataclasses import dataclass

from finetune.comparisons.results import Basis, Comparison
from finetune.evaluation.metrics import ClassScores
from finetune.evaluation.results import Difference, Metric
from finetune.records import Record


@dataclass(frozen=True, kw_only=True)
class FoldTraining(Basis):
    """The content of a result.json: the predictions for one fold's rows, in order, and the costs."""

    threads: int
    rows: list[int]  # row numbers in the data file
    probabilities: list[list[float]]  # (n, K) of the model
    predicted: list[int]  # classes
    baseline: list[list[float]]  # (n, K) of TF-IDF
    baseline_predicted: list[int]
    baseline_note: str
    train_rows: int
    seconds: float
    baseline_seconds: float
    epochs: float
    method: str


@dataclass(frozen=True)
class OverFolds(Record):
    """A metric of each fold, and its mean with an interval."""

    mean: Metric
    by_fold: list[float]


@dataclass(frozen=True, kw_only=True)
class FoldsComparison(Comparison):
    """The content of comparison.json."""

    rows: int
    fold_rows: list[int]
    threads: int
    method: str
    metrics: dict[str, OverFolds]
    baseline: dict[str, OverFolds]  # TF-IDF's
    difference: dict[str, Difference]  # the model's minus TF-IDF's, over folds
    baseline_note: str
    confusion_matrix: list[list[int]]  # of all rows, by true label (rows) and predicted label (columns)
    per_class: list[ClassScores]
    seconds: list[float]  # of each training
    epochs: list[float]
    baseline_seconds: float
