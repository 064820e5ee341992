"""The schema of explanations.json: a classifier's errors, and evidence for their causes. It contains texts of the data."""

from dataclasses import dataclass

from finetune.evaluation.results import Metric
from finetune.evaluation.robustness import Flips
from finetune.evaluation.shortcut import Shortcut
from finetune.evaluation.slices import Slices
from finetune.records import Record


@dataclass(frozen=True)
class Span(Record):
    """A piece of a text, and how far it moves the log-odds of the predicted against the true label.

    The difference between the text and the text with this piece blanked out; above 0 it favours the predicted label.
    """

    text: str
    shift: float


@dataclass(frozen=True)
class Neighbour(Record):
    """A training row with a similar hidden state, by cosine similarity."""

    row: int
    text: str
    label: str
    similarity: float


@dataclass(frozen=True)
class ExplainedError(Record):
    """A wrong prediction with the pieces that moved it most and the nearest training rows."""

    row: int
    label: str
    predicted: str
    spans: list[Span]
    neighbours: list[Neighbour]


@dataclass(frozen=True)
class NearDuplicates(Record):
    """Test rows that are exact or near duplicates of a training or validation text, and the metrics on the other rows."""

    rows: int
    n: int  # the others
    metrics: dict[str, Metric]


@dataclass(frozen=True, kw_only=True)
class Explanations(Record):
    """All findings about a classifier's errors."""

    slices: Slices
    shortcut: Shortcut | None
    flips: list[Flips]
    flip_rows: int  # test rows that were changed
    errors: list[ExplainedError]
    compared: int  # training rows among which the nearest were searched
    near: NearDuplicates
