"""Typed evaluation results: metrics, differences, and the shared part of every task's eval.json."""

import math
from dataclasses import dataclass
from typing import Self

from finetune.records import Record, WeightsOrigin

UNBOUNDED = ("log_loss", "brier")  # the Brier score of several classes goes up to 2; other metrics of labels to 1


@dataclass(frozen=True)
class Quantity(Record):
    """A value with its 95 % interval over `n` rows; both are missing if undefined."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def known_value(self) -> float:
        """The value; it must be defined."""
        assert self.value is not None, "not defined"
        return self.value

    def known(self) -> tuple[float, float, float]:
        """The value and its interval; it must be defined."""
        assert self.value is not None and self.low is not None and self.high is not None, "not defined"
        return self.value, self.low, self.high


@dataclass(frozen=True)
class Metric(Quantity):
    """A metric of one model, or the reason why it is undefined."""

    reason: str = ""

    @classmethod
    def around(cls, mean: float, half: float, n: int, name: str = "") -> Self:
        """A mean with an interval of this half width, cut where the metric called `name` has no values."""
        least = 0.0 if name else -math.inf
        most = math.inf if name in ("", *UNBOUNDED) else 1.0
        return cls(mean, max(mean - half, least), min(mean + half, most), n)


@dataclass(frozen=True)
class Difference(Quantity):
    """A metric of the model minus a baseline's on the same rows, with the interval and p of a paired test."""

    p_value: float | None = None
    metric: str = ""
    reason: str = ""

    def p(self) -> float:
        """The p value; the difference must have been tested."""
        assert self.p_value is not None, "not tested"
        return self.p_value


@dataclass(frozen=True, kw_only=True)
class Headline(Metric):
    """The headline metric of a run."""

    metric: str  # its name
    split: str


@dataclass(frozen=True, kw_only=True)
class StartWeights(WeightsOrigin):
    """The initial weights, with a note if they are not GPT-2's."""

    fallback: bool
    note: str


@dataclass(frozen=True)
class Start(Record):
    """The evaluated model: training method and initial weights."""

    method: str
    weights: StartWeights


@dataclass(frozen=True, kw_only=True)
class Measured(Record):
    """Fields of every eval.json and comparison.json."""

    schema_version: int
    task: str
    weights: StartWeights


@dataclass(frozen=True, kw_only=True)
class Evaluation(Measured):
    """Fields of every eval.json; each task adds its own."""

    method: str
    headline: Headline
    metrics: dict[str, Metric]
    seconds: float


def undefined(n: int, reason: str) -> Metric:
    """An undefined metric and the reason."""
    return Metric(None, None, None, n, reason)
