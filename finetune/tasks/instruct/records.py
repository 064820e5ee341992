"""Read and check instruction records from JSON, JSONL or CSV; records left out are counted."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.errors import DataError, listed
from finetune.records import PreparedRow
from finetune.tables.card import ExamplesCard, TokenSpread
from finetune.tables.detect import Detected
from finetune.tables.sources import DataSource, sample_source, samples
from finetune.tables.tables import TableFormat, iterate_table
from finetune.tasks.instruct.settings import Instruct

EXPECTED = (
    '{"instruction": "...", "input": "...", "output": "..."} or '
    '{"messages": [{"role": "user", "content": "..."}, '
    '{"role": "assistant", "content": "..."}]}'
)
NAMES = {
    "instruction": ("instruction", "prompt", "question"),
    "input": ("input", "context"),
    "output": ("output", "response", "answer", "completion"),
}
ROLES = ("system", "user", "assistant")
ENDINGS = (".json", ".jsonl", ".csv", ".tsv")
MOST_LISTED = 20


@dataclass(frozen=True)
class InstructRecord(PreparedRow, ABC):
    """An instruction or a dialogue."""

    @abstractmethod
    def conversation(self) -> tuple[str, list[tuple[str, str]]]:
        """(system message or "", exchanges of user and assistant); a missing last answer is ""."""


@dataclass(frozen=True)
class Instruction(InstructRecord):
    """An instruction, its input (may be empty) and the answer."""

    instruction: str
    input: str
    output: str

    def conversation(self) -> tuple[str, list[tuple[str, str]]]:
        """No system message and one exchange."""
        return "", [("\n".join(filter(None, (self.instruction, self.input))), self.output)]


@dataclass(frozen=True)
class Message:
    """A message of a dialogue."""

    role: str  # one of ROLES
    content: str


@dataclass(frozen=True)
class Dialogue(InstructRecord):
    """Alternating messages of user and assistant, after at most one system message."""

    messages: list[Message]

    def conversation(self) -> tuple[str, list[tuple[str, str]]]:
        """The messages in pairs."""
        system = self.messages[0].content if self.messages[0].role == "system" else ""
        turns = [message.content for message in self.messages if message.role != "system"]
        turns += [""] * (len(turns) % 2)
        return system, list(zip(turns[::2], turns[1::2], strict=True))


@dataclass
class Instructions:
    """Records in file order."""

    records: list[InstructRecord] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)  # location and problem of each


@dataclass(frozen=True)
class ExampleTokens(TokenSpread):
    """Lengths of the examples, prompt and answer together, and how many did not fit."""

    total: int
    max_length: int
    cut: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class InstructionsCard(ExamplesCard):
    """The content of this task's data/card.json."""

    malformed: int
    malformed_records: list[str]
    style: str
    template: str
    loss_on: str
    prompt: str  # of a sample question
    different_questions: int
    tokens: ExampleTokens


def read_instructions(path: Path, settings: Instruct) -> Instructions:
    """Every record of a file. Raises DataError if more are malformed than the settings allow."""
    path, found, rows = Path(path), Instructions(), 0
    for rows, (where, value) in enumerate(_values(path), 1):
        problem = value.problem if isinstance(value, _Unreadable) else _problem(value)
        if problem:
            found.malformed.append(f"{where}: {problem}")
        else:
            found.records.append(_record(rows - 1, value))
    if not rows:
        raise DataError(f"{path}: no records", known=EXPECTED)
    if len(found.malformed) > settings.malformed_fraction * rows:
        raise DataError(
            f"{path}: {len(found.malformed)} of {rows} records are malformed",
            got=listed(found.malformed, MOST_LISTED, "; "),
            known=EXPECTED,
            do="Fix them, or allow some to be skipped with --set instruct.malformed_fraction=0.01.",
        )
    return found


def read_field(path: Path, name: str) -> dict[int, str]:
    """Row number -> value of a field of each record that has it. Raises DataError if none has."""
    values = enumerate(value for _, value in _values(Path(path)))
    found = {row: str(value[name]) for row, value in values if isinstance(value, dict) and name in value}
    if not found:
        raise DataError(
            f"{path}: no record has the field {name!r}", do="Name another with --set evaluate.slice_by=FIELD."
        )
    return found


@dataclass(frozen=True)
class _Unreadable:
    """A line that is not JSON."""

    problem: str


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (location, value) of each record."""
    read = {".json": _items, ".jsonl": _lines, ".csv": _cells, ".tsv": _cells}.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path}: unknown file type", got=repr(path.suffix), known=", ".join(ENDINGS))
    try:
        yield from read(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8", got=f"byte {error.object[error.start]:#x}", do="Save the file as UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read", got=error.strerror or str(error)) from error


def _items(path: Path) -> Iterator[tuple[str, object]]:
    """The members of a JSON list, which is read into memory."""
    with open(path, encoding="utf-8-sig") as file:
        value = _parse(file.read())
    if isinstance(value, _Unreadable):
        raise DataError(f"{path}: {value.problem}", known=f"a list: [{EXPECTED}, ...]")
    if not isinstance(value, list):
        raise DataError(f"{path}: not a list of records", got=_kind(value), known=f"[{EXPECTED}, ...]")
    for number, member in enumerate(value):
        yield f"item {number}", member


def _lines(path: Path) -> Iterator[tuple[str, object]]:
    """The value of each non-empty line."""
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"line {number}", _parse(line)


def _cells(path: Path) -> Iterator[tuple[str, object]]:
    """The rows of a table as objects."""
    for row, (names, cells) in enumerate(iterate_table(path)):
        yield f"data row {row}", {name.strip().casefold(): cell for name, cell in zip(names, cells, strict=True)}


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return _Unreadable(f"not JSON ({error})")


def _problem(value: object) -> str:
    """Why a value is not a valid record, in words; "" if it is one."""
    if not isinstance(value, dict):
        return f"{_kind(value)}, not an object"
    if "messages" in value:
        return _problem_of_messages(value["messages"])
    for name, required in (("instruction", True), ("input", False), ("output", True)):
        key = _key(value, name)
        if key is None and required:
            return f"no {name!r} (it has: {', '.join(value) or 'nothing'})"
        if key is None or (value[key] is None and not required):
            continue
        if problem := _problem_of_text(value[key], may_be_empty=not required):
            return f"{key!r} {problem}"
    return ""


def _problem_of_messages(messages: object) -> str:
    if not isinstance(messages, list) or not messages:
        return f"'messages' is {_kind(messages) if messages else 'empty'}, not a list of messages"
    roles = []
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            return f"message {number} has no 'role' of {', '.join(ROLES)}"
        if problem := _problem_of_text(message.get("content"), may_be_empty=False):
            return f"the 'content' of message {number} {problem}"
        roles.append(role)
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        return (
            f"the roles are {', '.join(roles)}, not alternately user and assistant (after at most one system message)"
        )
    return ""


def _problem_of_text(text: object, may_be_empty: bool) -> str:
    if not isinstance(text, str):
        return f"is {_kind(text)}, not text"
    if not text.strip() and not may_be_empty:
        return "is empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half a character (a lone surrogate)"
    return ""


def _record(row: int, value: dict) -> InstructRecord:
    """The record in a valid value."""
    if "messages" in value:
        return Dialogue(row, [Message(message["role"], message["content"]) for message in value["messages"]])
    instruction, given, output = (value.get(_key(value, name)) or "" for name in NAMES)
    return Instruction(row, instruction, given if given.strip() else "", output)


def _key(value: dict, name: str) -> str | None:
    """The key of a field in an object: its name or a common synonym."""
    return next((key for key in NAMES[name] if key in value), None)


def _kind(value: object) -> str:
    """A JSON value's type in words."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def locate_instructions(name: str) -> DataSource:
    """Find the file of instruction records called `name`, or the bundled ``instruct-sample``. Raises DataError."""
    bundled = samples("jsonl")
    if name in bundled:
        return sample_source(name)
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(
            f"{name!r} is neither a bundled set of instruction records nor an existing file",
            known=", ".join(bundled),
            do="Give a .json, .jsonl or .csv file, for example --set data=my.jsonl",
        )
    return DataSource(path.name, path, Detected(TableFormat()), "the user's file")
