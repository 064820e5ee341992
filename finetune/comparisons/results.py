"""What every comparison.json holds: candidates on the same test rows, each beside the reference."""

from dataclasses import dataclass, fields
from typing import Any

from finetune.evaluation.candidates import Candidate
from finetune.evaluation.results import Difference, Measured, Metric
from finetune.records import Record


@dataclass(frozen=True, kw_only=True)
class Basis(Record):
    """What the result of a training depends on. The first fields of the file that keeps the result."""

    recipe: str  # hashes, as ``tasks.setup.identity`` makes them
    data: str
    weights: str
    device: str
    threads: int | str  # text in trainings.jsonl

    def same(self, other: "Basis") -> bool:
        """Whether both depend on the same, so that a result of one is that of the other."""
        return all(getattr(self, field.name) == getattr(other, field.name) for field in fields(Basis))


@dataclass(frozen=True, kw_only=True)
class Differences(Record):
    """A candidate's metrics minus the reference's, those that it has, and the p value after Holm's correction."""

    p_value: float
    accuracy: Difference | None = None
    f1: Difference | None = None
    f1_macro: Difference | None = None
    exact_match: Difference | None = None
    log_loss: Difference | None = None
    bits_per_byte: Difference | None = None

    def metric(self, name: str) -> Difference:
        """The difference in that metric, which it has."""
        found: Difference = getattr(self, name)
        return found


@dataclass(frozen=True, kw_only=True)
class MeasuredCandidate(Record):
    """A candidate and those metrics that it has, which are means over the seeds."""

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
    difference: Differences | None = None  # none: the reference

    def metric(self, name: str) -> Metric:
        """The metric of that name, which it has."""
        found: Metric = getattr(self, name)
        return found


@dataclass(frozen=True, kw_only=True)
class Comparison(Measured):
    """What a comparison.json holds; each comparison adds its own."""

    labels: list[str]
    positive: str | None  # none: there are more labels than two
    device: str


def fields_of(candidate: Candidate) -> dict[str, Any]:
    """What was measured of a candidate, as fields of ``MeasuredCandidate``."""
    difference = candidate.difference
    return {
        **candidate.metrics,
        "by_seed": candidate.by_seed,
        "difference": difference and Differences(p_value=difference.p_value, **difference.metrics),
    }
