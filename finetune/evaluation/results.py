"""The typed results of an evaluation: metrics, differences, and what every task's eval.json begins with."""

from dataclasses import dataclass

from finetune.records import Record, WeightsOrigin


@dataclass(frozen=True)
class Quantity(Record):
    """A figure with its 95 % interval over `n` rows; an undefined one has neither."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def known_value(self) -> float:
        """The value, of a figure that is defined."""
        assert self.value is not None, "not defined"
        return self.value

    def known(self) -> tuple[float, float, float]:
        """The value and its interval, of a figure that is defined."""
        assert self.value is not None and self.low is not None and self.high is not None, "not defined"
        return self.value, self.low, self.high


@dataclass(frozen=True)
class Metric(Quantity):
    """A figure of one model; an undefined one says why."""

    reason: str = ""


@dataclass(frozen=True)
class Difference(Quantity):
    """A metric of the model minus a baseline's on the same rows, with the interval and p of a paired test."""

    p_value: float | None = None
    metric: str = ""
    reason: str = ""

    def p(self) -> float:
        """The p value, of a difference that was tested."""
        assert self.p_value is not None, "not tested"
        return self.p_value


@dataclass(frozen=True, kw_only=True)
class Headline(Metric):
    """The one metric that a run is known by."""

    metric: str  # its name
    split: str


@dataclass(frozen=True, kw_only=True)
class StartWeights(WeightsOrigin):
    """The weights that were started from, with a sentence where they are not GPT-2's."""

    fallback: bool
    note: str


@dataclass(frozen=True)
class Start(Record):
    """What an evaluation is of: the method that was trained, and the weights that it began with."""

    method: str
    weights: StartWeights


@dataclass(frozen=True, kw_only=True)
class Measured(Record):
    """What every eval.json and every comparison.json holds."""

    schema_version: int
    task: str
    weights: StartWeights


@dataclass(frozen=True, kw_only=True)
class Evaluation(Measured):
    """What every eval.json holds; each task adds its own."""

    method: str
    headline: Headline
    metrics: dict[str, Metric]
    seconds: float


def undefined(n: int, reason: str) -> Metric:
    """A metric that has no value, and why."""
    return Metric(None, None, None, n, reason)
