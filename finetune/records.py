"""The schemas of a run's files: frozen dataclasses that are written as JSON and read back.

A file that does not match its schema comes from a damaged run or another version, and is reported as a user error; any
other exception is a bug.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Union

from finetune.errors import RunError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

AGAIN = "Run the stage that wrote it again."
SMALL_MODEL = 40_000_000  # parameters below which a model is trained in full and has little pretrained knowledge


class Record:
    """Base of every dataclass stored in a file or passed between stages. Default values are left out of the JSON."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``, keys in the order of the fields."""
        kind: Any = type(self)  # mypy takes an instance's __hash__ for its class's
        plain: dict[str, Any] = _adapter(kind).dump_python(self, mode="json", exclude_defaults=True)
        return plain

    @classmethod
    def from_json(cls, value: Any, source: str | Path, do: str = AGAIN) -> Self:
        """Parse `value` as this record. Raises RunError, naming `source` and what to `do`, if it does not match."""
        from pydantic import ValidationError

        try:
            kind: Any = cls  # as above
            found: Self = _adapter(kind).validate_python(value)
            return found
        except (ValidationError, RecursionError) as error:
            raise _mismatch(source, error, do) from error


@dataclass(frozen=True)
class PreparedRow(Record):
    """A row of a split as ``prepare`` leaves it, a line of data/SPLIT.jsonl; each task adds its own fields."""

    row: int  # its number in the data file, the first data row being 0


R = TypeVar("R", bound=PreparedRow)


def parse_rows(lines: Iterable[bytes], kinds: tuple[type[R], ...], source: Path) -> list[R]:
    """Rows of any of these kinds from their lines, validated as they are parsed: no slower than ``json.loads``.

    Raises RunError, naming `source` and the line, for one that is of none of them.
    """
    from pydantic import ValidationError

    parse, found = _adapter(Union[kinds]).validator.validate_json, []  # noqa: UP007 (of a tuple)
    for number, line in enumerate(lines, 1):
        try:
            found.append(parse(line))
        except ValidationError as error:
            raise _mismatch(f"{source}, line {number}", error) from error
    return found


def _mismatch(source: str | Path, error: "ValidationError | RecursionError", do: str = AGAIN) -> RunError:
    problem: Any = {"loc": (), "msg": "nested too deep"} if isinstance(error, RecursionError) else error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    return RunError(f"{source}: not in this version's format", got=f"{where}: {problem['msg']}".lstrip(": "), do=do)


@cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


@dataclass(frozen=True)
class StageRecord(Record):
    """The content of ``stages/NN-NAME.json``: a finished stage's inputs, outputs and result."""

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
    external: dict[str, str] = field(default_factory=dict)  # description of a file outside the run -> sha256
    machine: dict[str, str] = field(default_factory=dict)  # for training, what else affects the bits
    taken_from: str = ""  # the run whose result was reused, if any


@dataclass(frozen=True)
class WeightsOrigin(Record):
    """The initial weights of a run."""

    name: str
    source: str
    licence: str
    sha256: dict[str, str]  # of each file


@dataclass(frozen=True)
class DataOrigin(Record):
    """The data that a run trains on."""

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
    """The result of the stage ``verify``: the checkpoint's shape and the report on its tensors."""

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
    """Estimated cost of training, from its first steps, with a range."""

    seconds: float
    seconds_low: float
    seconds_high: float
    peak_bytes: int
    peak_bytes_low: int
    peak_bytes_high: int
    steps: int  # measured steps
    cpu_share: float  # CPU time as a fraction of their threads' wall time


@dataclass(frozen=True)
class Trained(Record):
    """The outcome of the training loop, and the path of its best checkpoint."""

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
    skipped_steps: int = 0  # under fp16, whose gradients were not finite


@dataclass(frozen=True)
class Passes(Record):
    """The passes that were found to fit in memory: the content of ``checkpoints/micro_batch_tokens.json``."""

    micro_batch_tokens: int


@dataclass(frozen=True)
class BestStep(Record):
    """The best checkpoint by the validation metric: the content of ``checkpoints/best.json``."""

    step: int
    metric: str
    value: float
    log_loss: float


@dataclass(frozen=True)
class TrainedTensors(Record):
    """Which tensors were trained."""

    names: list[str]
    places: list[str]  # short form: ``blocks.4-5``
    parameters: int
    share: float  # of the model's parameters


@dataclass(frozen=True, kw_only=True)
class TrainResult(Trained):
    """The result of the stage ``train``: the outcome and the chosen settings."""

    method: str
    why: list[str]  # reason for each choice
    lr: float | None  # None: there were no steps
    precision: str
    parameters: int  # of the model
    trainable: TrainedTensors
