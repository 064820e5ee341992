"""What explanations.json holds: where a classifier errs, and evidence on why. It holds texts of the data."""

from dataclasses import dataclass

from finetune.evaluation.results import Metric
from finetune.evaluation.robustness import Flips
from finetune.evaluation.shortcut import Shortcut
from finetune.evaluation.slices import Slices
from finetune.records import Record


@dataclass(frozen=True)
class Span(Record):
    """A piece of a text, and how far hiding it moves the log-odds of the predicted against the true label.

    Above 0: it speaks for the predicted label.
    """

    text: str
    shift: float


@dataclass(frozen=True)
class Neighbour(Record):
    """A training row whose hidden state is near: cosine similarity."""

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
    """Test rows that are nearly or exactly a training or validation text, and the metrics on all others."""

    rows: int
    n: int  # the others
    metrics: dict[str, Metric]


@dataclass(frozen=True, kw_only=True)
class Explanations(Record):
    """Everything that is found on a classifier's errors."""

    slices: Slices
    shortcut: Shortcut | None
    flips: list[Flips]
    flip_rows: int  # test rows that were changed
    errors: list[ExplainedError]
    compared: int  # training rows among which the nearest were looked for
    near: NearDuplicates
