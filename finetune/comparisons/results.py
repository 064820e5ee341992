"""The content that every comparison.json shares: candidates and a reference on the same test rows."""

from dataclasses import dataclass, fields
from typing import Any

from finetune.evaluation.candidates import Candidate
from finetune.evaluation.results import Difference, Measured, Metric
from finetune.records import Record


@dataclass(frozen=True, kw_only=True)
class Basis(Record):
    """Everything that the result of a training depends on; the first fields of its result file."""

    recipe: str  # this and the next two: hashes from ``tasks.setup.identity``
    data: str
    weights: str
    device: str
    threads: int | str  # text in trainings.jsonl

    def same(self, other: "Basis") -> bool:
        """Whether both are equal, so that a result can be reused."""
        return all(getattr(self, field.name) == getattr(other, field.name) for field in fields(Basis))


@dataclass(frozen=True, kw_only=True)
class Differences(Record):
    """A candidate's metrics minus the reference's, as far as measured, and the p value after Holm's correction."""

    p_value: float
    accuracy: Difference | None = None
    f1: Difference | None = None
    f1_macro: Difference | None = None
    exact_match: Difference | None = None
    log_loss: Difference | None = None
    bits_per_byte: Difference | None = None

    def metric(self, name: str) -> Difference:
        """The difference in a metric that was measured."""
        found: Difference = getattr(self, name)
        return found


@dataclass(frozen=True, kw_only=True)
class MeasuredCandidate(Record):
    """A candidate and its metrics, as far as measured, as means over the seeds."""

    name: str
    label: str
    seconds: float
    by_seed: list[dict[str, float]]  # each seed's own metrics
    accuracy: Metric | None = None
    f1: Metric | None = None
    f1_macro: Metric | None = None
    exact_match: Metric | None = None
    log_loss: Metric | None = None
    bits_per_byte: Metric | None = None
    difference: Differences | None = None  # None for the reference

    def metric(self, name: str) -> Metric:
        """A metric that was measured, by name."""
        found: Metric = getattr(self, name)
        return found


@dataclass(frozen=True, kw_only=True)
class Comparison(Measured):
    """The content of a comparison.json; each comparison adds fields."""

    labels: list[str]
    positive: str | None  # None for more than two labels
    device: str


def fields_of(candidate: Candidate) -> dict[str, Any]:
    """The measurements of a candidate, as fields of ``MeasuredCandidate``."""
    difference = candidate.difference
    return {
        **candidate.metrics,
        "by_seed": candidate.by_seed,
        "difference": difference and Differences(p_value=difference.p_value, **difference.metrics),
    }
