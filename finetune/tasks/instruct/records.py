"""Instruction records from JSON, JSONL or CSV, each checked; none is left out without being counted."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from finetune.errors import DataError
from finetune.evaluation.leakage import overlap
from finetune.recipe import Recipe
from finetune.tables.detect import Detected
from finetune.tables.sources import DataSource, sample_source, samples
from finetune.tables.splits import SPLITS, fold_text, grouped_split, ordered_split, text_keys
from finetune.tables.tables import TableFormat, iterate_table
from finetune.tasks.instruct.job import conversation_ids, examples, prompt_room
from finetune.tasks.instruct.prompts import answer, pieces, prompt, question
from finetune.tasks.instruct.settings import Instruct
from finetune.tokenizer import Tokenizer

EXPECTED = ('{"instruction": "...", "input": "...", "output": "..."} or '
            '{"messages": [{"role": "user", "content": "..."}, '
            '{"role": "assistant", "content": "..."}]}')
NAMES = {"instruction": ("instruction", "prompt", "question"), "input": ("input", "context"),
         "output": ("output", "response", "answer", "completion")}
ROLES = ("system", "user", "assistant")
ENDINGS = (".json", ".jsonl", ".csv", ".tsv")
MOST_LISTED = 20


@dataclass
class Instructions:
    """Records in file order; each one's "row" is its number in the file, the first being 0."""

    records: list[dict] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)  # where, and what is wrong


def read_instructions(path: Path, settings: Instruct) -> Instructions:
    """Every record of a file. Raises DataError that lists some if more are malformed than the settings allow."""
    path, found, rows = Path(path), Instructions(), 0
    for rows, (where, value) in enumerate(_values(path), 1):
        problem = value.problem if isinstance(value, _Unreadable) else _problem(value)
        if problem:
            found.malformed.append(f"{where}: {problem}")
        else:
            found.records.append({"row": rows - 1} | _record(value))
    if not rows:
        raise DataError(f"{path}: no records", known=EXPECTED)
    if len(found.malformed) > settings.malformed_fraction * rows:
        listed = found.malformed[:MOST_LISTED]
        more = len(found.malformed) - len(listed)
        raise DataError(f"{path}: {len(found.malformed)} of {rows} records are malformed",
                        got="; ".join(listed) + (f"; and {more} more" if more else ""), known=EXPECTED,
                        do="Mend them, or let some be left out with --set instruct.malformed_fraction=0.01.")
    return found


@dataclass(frozen=True)
class _Unreadable:
    """A line that is no JSON."""

    problem: str


def _values(path: Path) -> Iterator[tuple[str, object]]:
    """(where it stands, the value) of each record."""
    read = {".json": _items, ".jsonl": _lines, ".csv": _cells, ".tsv": _cells}.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path}: a file of unknown kind", got=repr(path.suffix), known=", ".join(ENDINGS))
    try:
        yield from read(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8", got=f"byte {error.object[error.start]:#x}",
                        do="Save the file as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read", got=error.strerror or str(error)) from error


def _items(path: Path) -> Iterator[tuple[str, object]]:
    """The members of a JSON list, which is read whole."""
    with open(path, encoding="utf-8-sig") as file:
        value = _parse(file.read())
    if isinstance(value, _Unreadable):
        raise DataError(f"{path}: {value.problem}", known=f"a list: [{EXPECTED}, ...]")
    if not isinstance(value, list):
        raise DataError(f"{path}: no list of records", got=_kind(value), known=f"[{EXPECTED}, ...]")
    for number, member in enumerate(value):
        yield f"item {number}", member


def _lines(path: Path) -> Iterator[tuple[str, object]]:
    """The value of each line that is not empty."""
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"line {number}", _parse(line)


def _cells(path: Path) -> Iterator[tuple[str, object]]:
    """The rows of a table as objects."""
    for row, (names, cells) in enumerate(iterate_table(path)):
        yield f"data row {row}", {name.strip().casefold(): cell
                                  for name, cell in zip(names, cells, strict=True)}


def _parse(text: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return _Unreadable(f"no JSON ({error})")


def _problem(value) -> str:
    """What keeps a value from being a record, in words; nothing if it is one."""
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


def _problem_of_messages(messages) -> str:
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
        return f"the roles are {', '.join(roles)}, not user and assistant in turn (after one system message at most)"
    return ""


def _problem_of_text(text, may_be_empty: bool) -> str:
    if not isinstance(text, str):
        return f"is {_kind(text)}, not text"
    if not text.strip() and not may_be_empty:
        return "is empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate)"
    return ""


def _record(value: dict) -> dict:
    """The parts of a value that count."""
    if "messages" in value:
        return {"messages": [{"role": message["role"], "content": message["content"]} for message in value["messages"]]}
    record = {name: value.get(_key(value, name)) or "" for name in NAMES}
    return record | {"input": record["input"] if record["input"].strip() else ""}


def _key(value: dict, name: str) -> str | None:
    """A field's name in an object: its own, or another usual one."""
    return next((key for key in NAMES[name] if key in value), None)


def _kind(value) -> str:
    """A JSON value's type in words."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def locate_instructions(name: str) -> DataSource:
    """The file of instruction records that `name` means, or the bundled ``instruct-sample``. Raises DataError."""
    bundled = samples("jsonl")
    if name in bundled:
        return sample_source(name)
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"no records {name!r}: no such file", known=", ".join(bundled),
                        do="Give a .json, .jsonl or .csv file, for example --set data=my.jsonl")
    return DataSource(path.name, path, Detected(TableFormat()), "the user's file")


def prepare(recipe: Recipe, source: Instructions, tokenizer: Tokenizer, context: int) -> tuple[dict, dict]:
    """Split the records, those with the same question together if not by their order alone.

    Questions count as the same if they are after folding case and white space: digits are content here.
    Returns (records by split, data card).
    """
    split, settings = recipe.split, recipe.instruct
    questions = [question(record) for record in source.records]
    if split.protocol == "ordered":
        parts = ordered_split(len(questions), split.val_fraction, split.test_fraction)
    else:
        parts = grouped_split(questions, [""] * len(questions), split.val_fraction, split.test_fraction, split.seed,
                              keys=text_keys(questions, fold_text))
    empty = [name for name in SPLITS if not parts[name]]
    if empty:
        raise DataError(f"too few records: none for the {empty[0]} split",
                        got=f"{len(set(map(fold_text, questions)))} different questions", do="Add some.")
    records = {name: [source.records[i] for i in parts[name]] for name in SPLITS}
    max_length = min(recipe.max_length or context, context)
    found = {name: examples(part, tokenizer, settings, max_length) for name, part in records.items()}
    for name, part in found.items():
        if not part.rows:
            raise DataError(f"no record of the {name} split fits into {max_length} tokens",
                            do="Give a larger max_length, or a model with a longer context.")
    lengths = [len(row) + 1 for part in found.values() for row in part.inputs]
    cut, left_out = ([row for part in found.values() for row in getattr(part, name)] for name in ("cut", "left_out"))
    notes = []
    if source.malformed:
        notes.append(f"{len(source.malformed)} malformed records left out")
    if cut:
        notes.append(f"{len(cut)} prompts lost their beginning, to fit into {max_length} tokens")
    if left_out:
        notes.append(f"{len(left_out)} records left out: the answer alone is longer than {max_length} tokens")
    room, longest = prompt_room(context, settings), settings.max_new_tokens
    if shortened := sum(len(conversation_ids(record, tokenizer, settings)) > room for record in records["test"]):
        notes.append(f"{shortened} test prompts are read without their beginning where answers are written, so that "
                     f"{longest} tokens of an answer fit into {context}")
    if long := sum(len(tokenizer.encode(answer(record))) > longest for record in records["test"]):
        notes.append(f"{long} test answers are longer than the {longest} tokens that are written; "
                     "instruct.max_new_tokens sets those")
    both = overlap({name: [questions[i] for i in part] for name, part in parts.items()}, fold_text)
    if split.protocol == "ordered":
        notes.append("records stand on a side by their place in the file: those to train on, the test's, the "
                     "validation's")
    for name, counts in both.items():
        side, other = name.split("_in_")
        if counts["normalised"]:
            notes.append(f"{counts['normalised']} of {counts['n']} {side} questions stand in {other} too, after "
                         "normalising")
    card = {
        "records": len(source.records), "malformed": len(source.malformed), "malformed_records": source.malformed,
        "style": "template" if settings.template else settings.style, "template": settings.template,
        "loss_on": settings.loss_on,
        "example": "".join(piece.text for piece in pieces(records["train"][0], settings)),
        "prompt": "".join(piece.text for piece in prompt({"instruction": "What is asked?", "input": ""}, settings)),
        "protocol": split.protocol, "seed": split.seed, "different_questions": len(set(map(fold_text, questions))),
        "splits": {name: {"records": len(records[name]), "used": len(part.rows), "tokens": sum(map(len, part.inputs)),
                          "learnt_tokens": sum(part.learnt())} for name, part in found.items()},
        "tokens": {"median": int(np.median(lengths)), "p95": int(np.percentile(lengths, 95)), "max": max(lengths),
                   "total": sum(lengths), "max_length": max_length, "cut": len(cut), "left_out": len(left_out)},
        "cut_rows": sorted(cut), "left_out_rows": sorted(left_out), "overlap": both, "notes": notes}
    return records, card
