"""The content of data/card.json and eval.json after pretraining."""

from dataclasses import dataclass

from finetune.evaluation.language import CompressedSize
from finetune.evaluation.results import Evaluation, Metric
from finetune.records import DataOrigin, Record


@dataclass(frozen=True)
class PartCounts(Record):
    """Size of the training part or the held-out part of a source."""

    documents: int
    tokens: int


@dataclass(frozen=True)
class SourceCounts(Record):
    """Size of a source. share: how often each of its documents is trained on per epoch.

    excluded: documents left out because they contain a row of an evaluation set.
    """

    share: float
    train: PartCounts
    val: PartCounts
    excluded: int = 0


@dataclass(frozen=True)
class Excluded(Record):
    """The number of rows of evaluation sets searched for, and of documents left out because they contain one."""

    rows: int
    documents: int


@dataclass(frozen=True, kw_only=True)
class TextCounts(Record):
    """Sizes of the training text (``train``), the held-out text (``val``) and each source."""

    documents: dict[str, int]
    tokens: dict[str, int]
    bytes: dict[str, int]
    sources: dict[str, SourceCounts]
    excluded: Excluded | None = None  # None: no evaluation sets were named

    def of(self, origin: DataOrigin, evaluated: "EvaluationText | None" = None) -> "TextCard":
        """These counts with the origin of the text."""
        return TextCard(**vars(origin), **vars(self), eval=evaluated)


@dataclass(frozen=True)
class EvaluationText(Record):
    """A text that is only evaluated."""

    name: str
    tokens: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class TextCard(TextCounts, DataOrigin):
    """The content of data/card.json."""

    eval: EvaluationText | None = None


@dataclass(frozen=True)
class SourceBits(Record):
    """Bits per byte of a source's held-out text before and after training, and of compressors."""

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
    """How the report's continuations are sampled."""

    temperature: float
    top_k: int
    seed: int
    new_tokens: int
    prompt_tokens: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class LanguageEvaluation(Evaluation):
    """The content of a language model's eval.json. metrics: of the held-out text after training."""

    before: dict[str, dict[str, Metric]]  # of each text, ``val`` and ``eval``
    after: dict[str, dict[str, Metric]]
    compressors: list[CompressedSize]
    sources: list[SourceBits]
    samples: list[Sample]
    sampling: Sampling
    objective: str = "next-token"  # or masked: metrics of masked tokens, and samples with these filled in
