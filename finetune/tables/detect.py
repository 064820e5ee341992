"""Detect the layout of an unknown file from its content: encoding, delimiter, quoting and header.

Deviations from the default (UTF-8, the delimiter of the extension, quotes, a header) are reported as notes.
"""

import codecs
import csv
import functools
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.errors import DataError, counted, listed
from finetune.tables import tables
from finetune.tables.label_folders import unread_files
from finetune.tables.tables import BINARY, DELIMITERS, TableFormat, as_cell, ending_of, format_of, open_bytes, open_text
from finetune.tables.workbooks import sheet_rows, sheets

SAMPLE = 1000  # rows sampled to detect the delimiter and the header
MANY_VALUES = 1000  # a column with more distinct values cannot be labels
NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "'|'"}
SEPARATOR = re.compile(r'"?sep=([^\w\s"]|\t)"?\s*', re.IGNORECASE)
MARKS = [
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]


@dataclass(frozen=True)
class Detected:
    """A layout, and notes on everything about it that was guessed or is unusual."""

    layout: TableFormat
    notes: tuple[str, ...] = ()
    lost_by_quoting: int = 0  # rows that a reader with default quoting would lose
    swallowed_lines: tuple[int, ...] = ()  # first lines of rows that look like several rows joined by an open quote
    swallowed_rows: int = 0  # further lines inside those rows, each of them a lost row


def detect_format(path: Path, encoding: str | None = None, header_names: frozenset[str] = frozenset()) -> Detected:
    """The layout of a file or a saved data set. `header_names`: words that occur only in headers.

    encoding: required for a file that is not UTF-8 and has no byte order mark. Raises DataError if the extension is
    not that of a table, or if the file cannot be opened.
    """
    path = Path(path)
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path}: no such file" if not path.exists() else f"{path}: cannot be read") from error
    if encoding:
        try:
            "".encode(encoding)
        except (LookupError, UnicodeError) as error:  # unknown, not a text encoding, or unable to encode
            raise DataError(f"unknown encoding {encoding!r}", known="utf-8, utf-16, cp1252, latin-1, ...") from error
    return _detect(path, encoding or None, header_names, stat.st_size, stat.st_mtime_ns)


def without_header(path: Path, layout: TableFormat) -> TableFormat:
    """The layout with the first row read as data and columns named column_1 and so on. Raises DataError."""
    if layout.kind not in ("delimited", "xlsx"):
        raise DataError(
            f"{path}: a file of this kind always has column names", got=layout.kind, do="Leave out --no-header."
        )
    width = max(len(cells) for _, cells in _first_rows(path, layout, 1) or [(0, [""])])
    return replace(layout, header=False, columns=tuple(f"column_{number}" for number in range(1, width + 1)))


@functools.lru_cache(maxsize=32)
def _detect(path: Path, encoding: str | None, header_names: frozenset[str], size: int, changed: int) -> Detected:
    ending = ending_of(path)
    layout = TableFormat() if path.is_file() and ending in ("", ".txt", ".data") else format_of(path)
    if layout.kind == "folder":
        unread = unread_files(path)
        outside = counted(unread, "file outside the labels' folders is", "files outside the labels' folders are")
        notes = [f"{outside} not read"] if unread else []
        return Detected(replace(layout, encoding=encoding or layout.encoding), tuple(notes))
    if layout.kind == "xlsx":
        return _workbook(path, layout, header_names)
    if layout.kind in BINARY:
        return Detected(layout)
    try:
        tables.refuse_packed(path)
        found, why = _encoding(path, encoding)
        layout = replace(layout, encoding=found)
        notes = [f"read as {found}, {why}"] if why else []
        if layout.kind != "delimited":
            return Detected(_json_kind(path, layout), tuple(notes))
        layout, more = _with_delimiter(path, layout)
        notes += more
        quoting, lost, swallowed, inside = _quoting(path, layout)
        layout = replace(layout, quoting=quoting)
        if not quoting:
            notes.append(
                "quotes are read as plain characters, each line as one row"
                + (f"; default quoting would have lost {counted(lost, 'row')}" if lost else "")
            )
        if columns := _without_header(path, layout, header_names):
            layout = replace(layout, header=False, columns=columns)
            notes.append(f"no header: the first row is data, and the columns are named {', '.join(columns)}")
        else:
            _refuse_title(path, layout, header_names)
    except UnicodeError as error:
        raise DataError(
            f"{path}: cannot be read as {layout.encoding}",
            got=str(error),
            do="Save the file as UTF-8, or give its encoding with --encoding NAME (in a recipe: encoding=NAME).",
        ) from error
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: cannot be read", got=getattr(error, "strerror", "") or str(error)) from error
    return Detected(layout, tuple(notes), lost, swallowed, inside)


def _workbook(path: Path, layout: TableFormat, header_names: frozenset[str]) -> Detected:
    """An Excel workbook: its first sheet with cells, with or without a header."""
    held, notes = sheets(path), []
    if len(held) > 1:
        notes.append(f"only the sheet {held[0]!r} is read; other sheets with cells: {listed(held[1:])}")
    if columns := _without_header(path, layout, header_names):
        layout = replace(layout, header=False, columns=columns)
        notes.append(f"no header: the first row is data, and the columns are named {', '.join(columns)}")
    else:
        _refuse_title(path, layout, header_names)
    return Detected(layout, tuple(notes))


def byte_order(path: Path) -> tuple[str, str]:
    """The encoding that a file's first bytes show, with the reason; by default UTF-8 and no reason."""
    with open_bytes(path) as file:
        start = file.read(4096)
    for mark, encoding in MARKS:
        if start.startswith(mark):
            return encoding, "according to its byte order mark"
    even, odd = start[::2].count(0), start[1::2].count(0)
    if len(start) > 8 and max(even, odd) > 0.3 * len(start) / 2 > 10 * min(even, odd):
        return ("utf-16-le" if odd > even else "utf-16-be"), "because every second byte is zero"
    return "utf-8-sig", ""


def _encoding(path: Path, asked: str | None) -> tuple[str, str]:
    """The encoding of a file and the reason: what its bytes show, else the requested one."""
    found, why = byte_order(path)
    if asked is None or why:
        return found, why
    if tables.is_utf8(path) and not tables.is_ascii(path):
        return found, f"because it is valid UTF-8; --encoding {asked} applies only to files that are not"
    return asked, "as requested"


def _json_kind(path: Path, layout: TableFormat) -> TableFormat:
    """JSONL if the first line of a .json file is a complete object and more lines follow."""
    with open_text(path, layout.encoding, errors="replace") as file:
        lines = [line.strip() for line in itertools.islice(file, 2)]
    one_each = len(lines) == 2 and all(line.startswith("{") and line.endswith("}") for line in lines)
    return replace(layout, kind="jsonl") if layout.kind == "json" and one_each else layout


def _lines(path: Path, layout: TableFormat) -> Iterator[tuple[int, str]]:
    """Numbered non-blank lines without line ends; undecodable bytes are replaced."""
    with open_text(path, layout.encoding, errors="replace", newline="\n") as file:
        for number, line in enumerate(itertools.islice(file, layout.skip, None), layout.skip + 1):
            if line.strip("\r\n"):
                yield number, line.rstrip("\r\n")


def _rows(path: Path, layout: TableFormat) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of each row as Python's csv reads it by default. Raises csv.Error."""
    csv.field_size_limit(tables.FIELD_LIMIT)
    with open_text(path, layout.encoding, errors="replace", newline="") as file:
        reader = csv.reader(itertools.islice(file, layout.skip, None), delimiter=layout.delimiter)
        begins = layout.skip + 1
        for cells in reader:
            if cells:
                yield begins, cells
            begins = layout.skip + reader.line_num + 1


def _with_delimiter(path: Path, layout: TableFormat) -> tuple[TableFormat, list[str]]:
    """The layout with the file's delimiter, and a note if that is not the default of the extension.

    In order: the delimiter that a first line ``sep=;`` gives, as Excel writes it; that of the extension, if the header
    contains it; the one that splits most lines into as many fields as the first.
    """
    with open_text(path, layout.encoding, errors="replace", newline="") as file:
        if named := SEPARATOR.fullmatch(file.readline(SAMPLE)):
            layout = replace(layout, delimiter=named[1], skip=1)
            return layout, [f"the fields are separated by {named[1]!r}, as line 1 says"]
    lines = [line for _, line in itertools.islice(_lines(path, layout), SAMPLE)]
    if not lines or len(max(lines, key=len)) > tables.FIELD_LIMIT:
        return layout, []
    if ending_of(path) in DELIMITERS and layout.delimiter in lines[0]:
        return layout, []

    def alike(delimiter: str) -> tuple[float, int]:
        widths = [line.count(delimiter) for line in lines]
        return sum(width == widths[0] for width in widths) / len(widths), widths[0]

    found = [mark for mark in ("\t", ",", ";", "|") if mark in lines[0]]
    best = max(found, key=alike, default=layout.delimiter)
    if best == layout.delimiter:
        return layout, []
    return replace(layout, delimiter=best), [f"the fields are separated by {NAMES[best]}"]


def _quoting(path: Path, layout: TableFormat) -> tuple[bool, int, tuple[int, ...], int]:
    """(whether quotes delimit cells, rows lost by default quoting, first lines of rows that swallowed others, number
    of swallowed lines).

    Quotes are plain characters if every line has as many fields as the first and reading the quotes as delimiters
    either fails or joins lines that look like rows. The SMS Spam Collection is such a file.
    """
    if not _holds_quotes(path, layout.encoding):
        return True, 0, (), 0
    width, lines, alike = 0, 0, True
    values: list[Counter | None] = []
    for _, line in _lines(path, layout):
        cells = line.split(layout.delimiter)
        width = width or len(cells)
        values = values or [Counter() for _ in range(width)]
        lines += 1
        alike = alike and len(cells) == width
        for column, cell in enumerate(cells[:width]):
            counter = values[column]
            if counter is not None and '"' not in cell and cell.strip():
                counter[cell] += 1
                if len(counter) > MANY_VALUES:
                    values[column] = None
    usual = [{value for value, count in counter.items() if count > 1} if counter else set() for counter in values]
    rows, several, inside, swallowed = 0, 0, 0, []
    try:
        for begins, cells in _rows(path, layout):
            rows += 1
            if any("\n" in cell for cell in cells):
                several += 1
                if _other_rows(cells, layout.delimiter, width, usual):
                    swallowed.append(begins)
                    inside += sum(cell.count("\n") for cell in cells)
    except csv.Error:
        swallowed.append(rows)
    strict = _reads_strictly(path, layout)
    if alike and width > 1 and (not strict or (swallowed and len(swallowed) == several)):
        return False, max(lines - rows, 0), (), 0
    return True, 0, tuple(swallowed[:100]), inside


def _other_rows(cells: list[str], delimiter: str, width: int, usual: list[set[str]]) -> bool:
    """Whether a later line inside a cell looks like a row: the usual number of fields, one with a repeated value."""
    for cell in cells:
        for line in cell.split("\n")[1:]:
            inner = line.rstrip("\r").split(delimiter)
            if len(inner) == width and any(value in known for value, known in zip(inner, usual, strict=True)):
                return True
    return False


def _holds_quotes(path: Path, encoding: str) -> bool:
    with open_bytes(path) as file:
        return any(b'"' in block for block in iter(functools.partial(file.read, 1 << 20), b""))


def _reads_strictly(path: Path, layout: TableFormat) -> bool:
    """Whether every quote that opens a cell also closes it at the cell's end."""
    with open_text(path, layout.encoding, errors="replace", newline="") as file:
        try:
            rows = itertools.islice(file, layout.skip, None)
            for _ in csv.reader(rows, delimiter=layout.delimiter, strict=True):
                continue
        except csv.Error:
            return False
    return True


def _first_rows(path: Path, layout: TableFormat, most: int) -> list[tuple[int, list[str]]]:
    """(first line, cells) of the first rows, with the layout's quoting."""
    if layout.kind == "xlsx":
        return [(number, list(map(as_cell, cells))) for number, cells in itertools.islice(sheet_rows(path), most)]
    if layout.quoting:
        return list(itertools.islice(_rows(path, layout), most))
    return [(number, line.split(layout.delimiter)) for number, line in itertools.islice(_lines(path, layout), most)]


def _usual(cells: list[str], header_names: frozenset[str]) -> set[str]:
    """The cells of a row that are common header words."""
    return {cell.strip().casefold() for cell in cells} & header_names


def _refuse_title(path: Path, layout: TableFormat, header_names: frozenset[str]) -> None:
    """Raise DataError if a title is above the header: a line with nothing but a first cell."""
    try:
        (_, title), *below = _first_rows(path, layout, 3)
    except (ValueError, csv.Error):
        return
    if not title[0].strip() or any(map(str.strip, title[1:])) or _usual(title, header_names):
        return
    for line, cells in below:
        if _usual(cells, header_names) and len(list(filter(str.strip, cells))) > 1:
            shown = layout.delimiter.join(title)
            raise DataError(
                f"{path}: line {line} looks like the header, not the first line",
                got=repr(shown if len(shown) <= 80 else shown[:77] + "..."),
                known=f"the header must come first: {layout.delimiter.join(cells)}"[:200],
                do="Delete the lines above it.",
            )


def _without_header(path: Path, layout: TableFormat, header_names: frozenset[str]) -> tuple[str, ...]:
    """Column names for a file without a header; empty if its first row is a header.

    The first row is data if one of its cells is repeated in the same column and none is a common header word.
    """
    try:
        first, *others = (cells for _, cells in _first_rows(path, layout, SAMPLE))
    except (ValueError, csv.Error):
        return ()
    if _usual(first, header_names):
        return ()
    for column, cell in enumerate(first):
        again = sum(row[column] == cell for row in others if len(row) > column)
        if cell.strip() and again >= max(2, len(others) / 100):
            return tuple(f"column_{number}" for number in range(1, len(first) + 1))
    return ()
