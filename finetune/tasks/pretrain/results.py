"""What data/card.json and eval.json hold after pretraining."""

from dataclasses import dataclass

from finetune.evaluation.language import CompressedSize
from finetune.evaluation.results import Evaluation, Metric
from finetune.records import DataOrigin, Record


@dataclass(frozen=True)
class PartCounts(Record):
    """How much of a source is trained on, or held out."""

    documents: int
    tokens: int


@dataclass(frozen=True)
class SourceCounts(Record):
    """How much text a source has. share: how often a document of it is trained on, 1 being once an epoch.

    excluded: documents left out because they hold a row of an evaluation set.
    """

    share: float
    train: PartCounts
    val: PartCounts
    excluded: int = 0


@dataclass(frozen=True)
class Excluded(Record):
    """Documents left out of pretraining, and the rows of evaluation sets that were looked for in all of them."""

    rows: int
    documents: int


@dataclass(frozen=True, kw_only=True)
class TextCounts(Record):
    """How much text is trained on and held out, under ``train`` and ``val``, and how much each source has."""

    documents: dict[str, int]
    tokens: dict[str, int]
    bytes: dict[str, int]
    sources: dict[str, SourceCounts]
    excluded: Excluded | None = None  # None: no evaluation sets were named

    def of(self, origin: DataOrigin, evaluated: "EvaluationText | None" = None) -> "TextCard":
        """The same with where the text comes from."""
        return TextCard(**vars(origin), **vars(self), eval=evaluated)


@dataclass(frozen=True)
class EvaluationText(Record):
    """A text that is only measured."""

    name: str
    tokens: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class TextCard(TextCounts, DataOrigin):
    """What data/card.json holds."""

    eval: EvaluationText | None = None


@dataclass(frozen=True)
class SourceBits(Record):
    """Bits per byte of a source's held-out text before and after training, and what compressors make of it."""

    name: str
    bytes: int
    before: float
    after: float
    compressors: list[CompressedSize]


@dataclass(frozen=True)
class Sample(Record):
    """The beginning of a held-out text, and how the model continued it before and after training."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class Sampling(Record):
    """How the report's continuations are drawn."""

    temperature: float
    top_k: int
    seed: int
    new_tokens: int
    prompt_tokens: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class LanguageEvaluation(Evaluation):
    """What a language model's eval.json holds. `metrics` are those of the held-out text after training."""

    before: dict[str, dict[str, Metric]]  # of each text, ``val`` and ``eval``
    after: dict[str, dict[str, Metric]]
    compressors: list[CompressedSize]
    sources: list[SourceBits]
    samples: list[Sample]
    sampling: Sampling
    objective: str = "next-token"  # or masked: the metrics are of hidden tokens, and the samples are filled in
