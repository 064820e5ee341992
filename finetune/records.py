"""What a run's files hold, as types: frozen dataclasses that are written as JSON and read back.

A file that does not parse as its type is a damaged run or one of another version, an error of the user's files; any
other exception is a bug of ours.
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from finetune.errors import RunError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SMALL_MODEL = 40_000_000  # parameters below which a model moves whole and knows next to nothing


class Record:
    """The base of every dataclass that crosses a file or a stage. Fields at their default are left out of the JSON."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``, keys in the order of the fields."""
        kind: Any = type(self)  # mypy takes an instance's __hash__ for its class's
        plain: dict[str, Any] = _adapter(kind).dump_python(self, mode="json", exclude_defaults=True)
        return plain

    @classmethod
    def from_json(cls, value: Any, source: str | Path) -> Self:
        """The record that `value` is. Raises RunError, which names `source`, for JSON of another shape."""
        from pydantic import ValidationError

        try:
            kind: Any = cls  # as above
            found: Self = _adapter(kind).validate_python(value)
            return found
        except (ValidationError, RecursionError) as error:
            problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "nested too deep"}
            where = ".".join(map(str, problem["loc"]))
            raise RunError(
                f"{source}: not what this version writes",
                got=f"{where}: {problem['msg']}".lstrip(": "),
                do="Run the stage that wrote it again.",
            ) from error


@cache
def _adapter(kind: type[Any]) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


@dataclass(frozen=True)
class StageRecord(Record):
    """What ``stages/NN-NAME.json`` holds: a stage that finished, what it read, left and returned."""

    stage: str
    inputs: str  # fingerprint of the settings and files that the stage read, and of this package's version
    outputs: dict[str, tuple[int, str]]  # relative path -> (bytes, sha256)
    result: dict[str, Any]  # the stage's own record, as JSON
    seconds: float
    peak_memory_bytes: int
    versions: dict[str, str]
    hardware: dict[str, Any]
    git_commit: str | None
    finished: str
    external: dict[str, str] = field(default_factory=dict)  # files outside of the run, in words -> sha256
    machine: dict[str, str] = field(default_factory=dict)  # what the bits depend on besides, of a training
    taken_from: str = ""  # the run that did the work, where it was taken over


@dataclass(frozen=True)
class WeightsOrigin(Record):
    """The weights that a run starts from."""

    name: str
    source: str
    licence: str
    sha256: dict[str, str]  # of each file


@dataclass(frozen=True)
class DataOrigin(Record):
    """The data that a run learns from."""

    name: str
    file: str
    source: str
    licence: str
    citation: str
    sha256: str


@dataclass(frozen=True)
class Downloaded(Record):
    """The result of the stage ``download``."""

    weights: WeightsOrigin
    data: DataOrigin


@dataclass(frozen=True)
class Verified(Record):
    """The result of the stage ``verify``: the checkpoint's shape, and what became of its tensors."""

    parameters: int
    tensors: int
    transposed: int
    skipped: list[str]
    dtypes: list[str]
    layers: int
    width: int
    heads: int
    context: int
    vocab_size: int
    tokenizer_sha256: str


@dataclass(frozen=True)
class Estimate(Record):
    """What a training was expected to take after its first steps, with a range."""

    seconds: float
    seconds_low: float
    seconds_high: float
    peak_bytes: int
    peak_bytes_low: int
    peak_bytes_high: int
    steps: int  # that were measured
    cpu_share: float  # of their threads' time that the processor gave to them


@dataclass(frozen=True)
class Trained(Record):
    """What the loop did, and where its best checkpoint is."""

    steps: int
    planned_steps: int
    epochs: float
    rows: int
    tokens: int
    seconds: float
    tokens_per_second: float
    best_step: int
    best_value: float
    metric: str
    stopped_early: bool
    processes: int
    threads: int
    device: str
    peak_bytes: int
    estimate: Estimate | None = None


@dataclass(frozen=True)
class BestStep(Record):
    """The best checkpoint by the validation metric: what ``checkpoints/best.json`` holds."""

    step: int
    metric: str
    value: float
    log_loss: float


@dataclass(frozen=True)
class TrainedTensors(Record):
    """Which tensors were trained."""

    names: list[str]
    places: list[str]  # the same in few words: ``blocks.4-5``
    parameters: int
    share: float  # of the model's parameters


@dataclass(frozen=True, kw_only=True)
class TrainResult(Trained):
    """The result of the stage ``train``: what the loop did, and what was chosen for it."""

    method: str
    why: list[str]  # of each choice
    lr: float
    precision: str
    parameters: int  # of the model
    trainable: TrainedTensors
