"""Choose on validation rows between a model, TF-IDF, and the average of their log-probabilities."""

from dataclasses import dataclass

import numpy as np

from finetune.records import Record

MODEL, TFIDF, AVERAGE = "model", "tfidf", "average"
FLOOR = 1e-12  # for probabilities, before taking the logarithm


@dataclass(frozen=True)
class OnValidation(Record):
    """A candidate's results on validation: the metric, and the log loss, which breaks ties."""

    metric: float
    log_loss: float


@dataclass(frozen=True, kw_only=True)
class Choice(Record):
    """The winner among the candidates, and each candidate's results on validation."""

    winner: str
    metric: str  # the name of the headline metric
    rows: int
    validation: dict[str, OnValidation]


def average_logs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The normalised mean of two log-probabilities (n, K): the geometric mean of the probabilities."""
    from scipy.special import log_softmax

    found: np.ndarray = log_softmax((one + other) / 2, axis=1)
    return found


def choose_winner(values: dict[str, float], logs: dict[str, np.ndarray], y: np.ndarray, metric: str) -> Choice:
    """The candidate with the highest metric on validation, ties to the lower log loss, then to the first.

    values: candidate -> metric. logs: candidate -> log-probabilities (n, K). y: classes (n,).
    """
    found = {
        name: OnValidation(value, float(-logs[name][np.arange(len(y)), y].mean()) if len(y) else 0.0)
        for name, value in values.items()
    }
    winner = max(found, key=lambda name: (found[name].metric, -found[name].log_loss))
    return Choice(winner=winner, metric=metric, rows=len(y), validation=found)
