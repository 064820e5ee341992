"""Labelled text from a file, row by row, nothing guessed and nothing dropped in silence."""

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finetune.config import nearest
from finetune.errors import DataError

TEXT_NAMES = ("text", "message", "sms", "content", "body", "sentence", "v2")
LABEL_NAMES = ("label", "class", "category", "target", "v1")
FIELD_LIMIT = 16 << 20  # characters in one cell


@dataclass(frozen=True)
class TableFormat:
    """How a file is laid out. No header: `columns` names the fields."""

    delimiter: str = ","
    header: bool = True
    quoting: bool = True
    columns: tuple[str, ...] = ()


@dataclass
class LabelledTexts:
    """Rows in file order; `rows` holds each one's number in the file, the first data row being 0."""

    rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    text_column: str = ""
    label_column: str = ""


def format_of(path: Path) -> TableFormat:
    """The layout that a file's ending stands for."""
    delimiters = {".csv": ",", ".tsv": "\t"}
    if path.suffix.lower() not in delimiters:
        raise DataError(f"{path}: a file of unknown kind", got=repr(path.suffix), known=", ".join(delimiters))
    return TableFormat(delimiter=delimiters[path.suffix.lower()])


def iterate_table(path: Path, layout: TableFormat | None = None) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (column names, cells) for each row. Raises DataError with the line for a row of another width."""
    layout = layout or format_of(Path(path))
    try:
        with open(path, encoding="utf-8-sig", newline="" if layout.quoting else "\n") as file:
            lines = _quoted(file, layout.delimiter) if layout.quoting else _unquoted(file, layout.delimiter)
            names = next(lines, (0, []))[1] if layout.header else list(layout.columns)
            if not names:
                raise DataError(f"{path}: the file is empty")
            for number, cells in lines:
                if len(cells) != len(names):
                    raise DataError(f"{path}, line {number}: {len(cells)} fields", got=_short(cells),
                                    known=f"{len(names)} columns: {', '.join(names)}",
                                    do=_other_delimiter(names) or "Quote the texts that hold the delimiter.")
                yield names, cells
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: a directory where a file should be") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8", got=f"byte {error.object[error.start]:#x} in line {_undecodable(path)}",
                        do="Save the file as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as a table", got=str(error),
                        do="A quote that is opened must be closed.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read", got=error.strerror or str(error)) from error


def find_column(names: list[str], wanted: str | None, usual: tuple[str, ...], what: str, path: Path) -> int:
    """The index of the wanted column, or of the first usual name. Raises DataError with the names there are."""
    mend = _other_delimiter(names) or f"Name it with --{what} NAME, or in a recipe under columns.{what}."
    if wanted is not None:
        if names.count(wanted) > 1:
            raise DataError(f"{path}: {names.count(wanted)} columns are called {wanted!r}", do="Rename all but one.")
        if wanted in names:
            return names.index(wanted)
        raise DataError(f"{path}: no column {wanted!r}", got=", ".join(names), known=nearest(wanted, names), do=mend)
    found = [index for name in usual for index, own in enumerate(names) if own.strip().casefold() == name]
    if not found:
        raise DataError(f"{path}: no {what} column that can be told by its name", got=", ".join(names),
                        known=", ".join(usual), do=mend)
    return find_column(names, names[found[0]], usual, what, path)  # the same name twice is refused


def read_labelled(path: Path, text: str | None, label: str | None, layout: TableFormat | None = None,
                  least_labels: int = 2) -> LabelledTexts:
    """Every row with a text and a label; rows that miss one are counted under `dropped`.

    Raises DataError where fewer than `least_labels` are found.
    """
    path = Path(path)
    table = iterate_table(path, layout)
    first = next(table, None)
    if first is None:
        raise DataError(f"{path}: a header and no rows")
    names = first[0]
    text_at = find_column(names, text, TEXT_NAMES, "text", path)
    label_at = find_column(names, label, LABEL_NAMES, "label", path)
    result = LabelledTexts(text_column=names[text_at], label_column=names[label_at])
    for row, (_, cells) in enumerate(itertools.chain([first], table)):
        text_cell, label_cell = cells[text_at], cells[label_at].strip()
        if not text_cell.strip() or not label_cell:
            reason = "empty text" if not text_cell.strip() else "empty label"
            result.dropped[reason] = result.dropped.get(reason, 0) + 1
            continue
        result.rows.append(row)
        result.texts.append(text_cell)
        result.labels.append(label_cell)
    if len(set(result.labels)) < least_labels:
        what = "a classifier needs two labels" if least_labels > 1 else "no row has a text and a label"
        raise DataError(f"{path}: {what}", got=", ".join(sorted(set(result.labels))) or "none",
                        do=f"Is {names[label_at]!r} the label column? Name another with --label NAME.")
    return result


def listed(names: list[str], most: int = 8) -> str:
    """Names for a message, the first few of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _other_delimiter(names: list[str]) -> str:
    """What to do where the header is one cell that holds another delimiter; empty for any other header."""
    seen = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
    if seen is None:
        return ""
    return f"The delimiter looks like {seen!r}: " + ("name the file .tsv." if seen == "\t" else
                                                    "save the file with commas between the fields.")


def _quoted(file, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    begins = 1  # a row with line breaks in its cells is named by its first line, where its quote is opened
    try:
        for cells in reader:
            if cells:
                yield begins, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"line {begins}: {error}") from error


def _unquoted(file, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """A row is a line, whatever quotes it holds."""
    for number, line in enumerate(file, 1):
        if line.strip("\r\n"):
            yield number, line.rstrip("\r\n").split(delimiter)


def _undecodable(path: Path) -> int:
    """The first line that is not UTF-8, counted from 1."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return number


def _short(cells: list[str]) -> str:
    text = " | ".join(cells)
    return repr(text if len(text) <= 80 else text[:77] + "...")
