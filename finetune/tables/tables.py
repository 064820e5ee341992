"""Tables of any kind as rows of text cells: CSV, TSV, JSON, JSONL, Parquet, Excel, folders of texts, saved data sets.

Nothing is guessed here (see detect.py) and no row is dropped: a malformed row is an error with its line number. A
missing value is an empty cell; numbers and booleans become text as in JSON. Pickles are never read.
"""

import codecs
import csv
import functools
import io
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from finetune.errors import DataError, counted, shorten
from finetune.tables.label_folders import is_label_folder, labelled_files
from finetune.tables.nested import Values, is_field, with_nested
from finetune.tables.unpacking import Unpacked
from finetune.tables.workbooks import sheet_rows

OBJECT = '{"text": "...", "label": "..."}'
FIELD_LIMIT = 16 << 20  # characters in one cell
BUFFER = 1 << 18  # bytes that are unpacked at a time
BATCH = 1024  # rows of Parquet and Arrow in memory at a time
DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
SAVE_AS_CSV = "Open it in a spreadsheet program and save it as CSV, in UTF-8."
FIXES = {".xls": SAVE_AS_CSV, ".ods": SAVE_AS_CSV, ".zip": "Unpack it first."}
PACKED = {
    b"PK\x03\x04": ("an Excel workbook or another zip archive", "If it is a workbook, rename it to end in .xlsx."),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", SAVE_AS_CSV),
    b"\x1f\x8b": ("a gzip archive", "Rename it to end in .gz, for example my.csv.gz."),
}  # magic bytes of files that are not text
KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet", ".xlsx": "xlsx"}
BINARY = ("parquet", "xlsx", "dataset", "folder")  # kinds that have no text layout
FOLDERS = ("dataset", "folder")
ENDINGS = (*DELIMITERS, *KINDS, ".csv.gz")
SPLIT_COLUMN = "split"  # added to the rows of a folder that has several splits

Rows = Iterator[tuple[list[str], list[str]]]


@dataclass(frozen=True)
class TableFormat:
    """The layout of a file. Without a header, `columns` gives the column names."""

    delimiter: str = ","
    header: bool = True
    quoting: bool = True
    columns: tuple[str, ...] = ()
    encoding: str = "utf-8-sig"
    kind: str = "delimited"  # or json, jsonl, parquet, xlsx, dataset, folder
    skip: int = 0  # lines to skip above the table
    fields: tuple[str, ...] = ()  # dotted names of nested fields, each added as a column: content.text


def ending_of(path: Path) -> str:
    """The extension of a file in lower case; for a .gz file, that of the file inside."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def open_text(path: Path, encoding: str, newline: str | None = None, errors: str | None = None) -> IO[str]:
    """Open a text file to read, unpacked if its name ends in .gz."""
    if path.name.lower().endswith(".gz"):
        return io.TextIOWrapper(open_bytes(path), encoding=encoding, newline=newline, errors=errors)
    return open(path, encoding=encoding, newline=newline, errors=errors)


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file to read as bytes, unpacked if its name ends in .gz."""
    if path.name.lower().endswith(".gz"):
        return io.BufferedReader(Unpacked(path), BUFFER)
    return open(path, "rb")


def format_of(path: Path) -> TableFormat:
    """The default layout for a file extension."""
    if is_saved_dataset(path):
        return TableFormat(kind="dataset")
    if is_label_folder(path):
        return TableFormat(kind="folder")
    ending, packed = ending_of(path), path.name.lower().endswith(".gz")
    if ending in KINDS and not (packed and KINDS[ending] in BINARY):
        return TableFormat(kind=KINDS[ending])
    if ending not in DELIMITERS:
        raise DataError(
            f"{path}: unknown file extension",
            got=repr(path.suffix),
            known=", ".join(ENDINGS) + ", a folder saved by datasets, a folder with one folder of texts per label",
            do=FIXES.get(ending, ""),
        )
    return TableFormat(delimiter=DELIMITERS[ending])


def iterate_table(path: Path, layout: TableFormat | None = None) -> Rows:
    """Yield (column names, cells) for each row. Raises DataError with the line number of a malformed row."""
    for names, values in iterate_values(path, layout):
        yield names, [value if type(value) is str and value.isascii() else as_cell(value) for value in values]


def iterate_values(path: Path, layout: TableFormat | None = None) -> Values:
    """``iterate_table`` with each value in the type that the file gives it."""
    path = Path(path)
    layout = layout or format_of(path)
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.is_dir() != (layout.kind in FOLDERS):
        raise DataError(f"{path}: a directory instead of a file")
    read = {
        "delimited": _delimited,
        "json": _json,
        "jsonl": _jsonl,
        "parquet": _parquet,
        "xlsx": _workbook,
        "dataset": _dataset,
        "folder": _folder,
    }
    try:
        rows = read[layout.kind](path, layout)
        yield from with_nested(rows, layout.fields) if layout.fields else rows
    except UnicodeDecodeError as error:
        raise _not_utf8(path, layout.encoding, error) from error
    except csv.Error as error:
        raise _malformed(path, layout, error) from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked", got=str(error), do="Copy or download the file again.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read", got=error.strerror or str(error)) from error


def refuse_packed(path: Path) -> None:
    """Raise DataError if the first bytes show a workbook or an archive with the extension of a text file."""
    with open_bytes(path) as file:
        start = file.read(4)
    for magic, (what, fix) in PACKED.items():
        if start.startswith(magic):
            raise DataError(
                f"{path}: not a text file", got=f"{what}, judging by its first bytes", known=", ".join(ENDINGS), do=fix
            )


def is_missing(value: object) -> bool:
    """Whether a value is null or NaN."""
    return value is None or (isinstance(value, float) and value != value)


def as_cell(value: object) -> str:
    """A JSON value as text: empty for null and NaN, JSON for lists and objects; lone surrogates are replaced."""
    if is_missing(value):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str).removeprefix('"').removesuffix('"')
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def is_utf8(path: Path) -> bool:
    """Whether a file is valid UTF-8; read in bounded memory."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open_bytes(path) as file:
            for block in iter(functools.partial(file.read, 1 << 20), b""):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def is_ascii(path: Path) -> bool:
    """Whether every byte of a file is ASCII; read in bounded memory."""
    with open_bytes(path) as file:
        return all(block.isascii() for block in iter(functools.partial(file.read, 1 << 20), b""))


@dataclass(frozen=True)
class NotUtf8:
    """The content of a file that is not UTF-8, and a guess at its encoding."""

    line: int  # the first line that is not UTF-8, counted from 1
    foreign: int  # number of lines that are not ASCII
    valid: int  # number of those that are UTF-8
    guess: str  # Windows-1252 or Latin-1
    sample: str  # a word, decoded with the guess

    def share(self) -> str:
        """The share of the file that is UTF-8, in words."""
        if self.foreign == 1:
            return "it is the only non-ASCII line"
        return f"{self.valid:,} of the {self.foreign:,} non-ASCII lines are UTF-8"

    def fix(self) -> str:
        """The advice for the user."""
        option = f"--encoding {self.guess} (in a recipe: encoding={self.guess})"
        if self.valid:
            return (
                f"Part of it is UTF-8: correct the other lines, from line {self.line} on, and save the whole file as UTF-8; "
                f"{option} would garble the UTF-8 lines."
            )
        return f"Save the file as UTF-8, or use {option}, a guess, if this word looks right: {self.sample}"


def look_at_bytes(path: Path) -> NotUtf8:
    """Examine a file that is not UTF-8 line by line, in bounded memory."""
    first, foreign, valid, guess, sample = 0, 0, 0, "cp1252", ""
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            if line.isascii():
                continue
            foreign += 1
            if _reads(line, "utf-8"):
                valid += 1
                continue
            first = first or number
            if not _reads(line, guess):
                guess = "latin-1"
            text = line.decode(guess)
            sample = sample or next((word for word in text.split() if not word.isascii()), text.strip())[:30]
    return NotUtf8(first, foreign, valid, guess, repr(sample))


def _reads(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _delimited(path: Path, layout: TableFormat) -> Values:
    with open_text(path, layout.encoding, newline="" if layout.quoting else "\n") as file:
        lines = (_quoted if layout.quoting else _unquoted)(file, layout)
        names = next(lines, (0, []))[1] if layout.header else list(layout.columns)
        if not names:
            raise _empty(path)
        for number, cells in lines:
            if len(cells) != len(names):
                fix = "Quote the texts that contain the delimiter."
                raise DataError(
                    f"{path}, line {number}: {counted(len(cells), 'field')}",
                    got=repr(shorten(" | ".join(cells), 80)),
                    known=f"{counted(len(names), 'column')}: {', '.join(names)}",
                    do=fix if len(cells) > len(names) else "Complete the row, or delete it if it is a note or a total.",
                )
            yield names, cells


def _quoted(file: Iterable[str], layout: TableFormat) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(itertools.islice(file, layout.skip, None), delimiter=layout.delimiter, strict=True)
    begins = layout.skip + 1  # a row of several lines is reported by the line where its quote opens
    try:
        for cells in reader:
            if cells:
                yield begins, cells
            begins = layout.skip + reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"line {begins}: {error}") from error


def _unquoted(file: Iterable[str], layout: TableFormat) -> Iterator[tuple[int, list[str]]]:
    """One row per line, ignoring quotes."""
    for number, line in enumerate(itertools.islice(file, layout.skip, None), layout.skip + 1):
        if line.strip("\r\n"):
            yield number, line.rstrip("\r\n").split(layout.delimiter)


def _json(path: Path, layout: TableFormat) -> Values:
    """A list of objects; the only kind that is read into memory as a whole."""
    with open_text(path, layout.encoding) as file:
        text = file.read()
    if not text.strip():
        raise _empty(path)
    objects = _parsed(text, f"{path}", f"a list of objects: [{OBJECT}]")
    if isinstance(objects, dict) and len(held := lists_of_objects(objects)) == 1:
        objects = objects[held[0]]
    if not isinstance(objects, list):
        raise DataError(
            f"{path}: the JSON file must contain a list of objects",
            got=f"dict with the keys {', '.join(objects)}"[:200]
            if isinstance(objects, dict)
            else type(objects).__name__,
            known=f'[{OBJECT}], or the list under one key: {{"data": [...]}}',
        )
    names = _keys((f"{path}, object {number}", value) for number, value in enumerate(objects, 1))
    for value in objects:
        yield names, [value.get(name) for name in names]


def lists_of_objects(value: dict[str, Any]) -> list[str]:
    """The keys under which an object has a list of objects."""
    return [key for key, own in value.items() if isinstance(own, list) and own and isinstance(own[0], dict)]


def _jsonl(path: Path, layout: TableFormat) -> Values:
    """One object per line; read twice, because a later object may have another key."""
    known = f"one object per line: {OBJECT}"

    def objects() -> Iterator[tuple[str, Any]]:
        with open_text(path, layout.encoding, newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {number}", _parsed(line, f"{path}, line {number}", known)

    names = _keys(objects())
    for _, value in objects():
        yield names, [value.get(name) for name in names]


def _parsed(text: str, where: str, known: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: cannot be read as JSON", got=str(error), known=known) from error


def _once(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"duplicate key {key!r}")
    return found


def _keys(objects: Iterable[tuple[str, Any]]) -> list[str]:
    """Every key of the objects in the order of their first use."""
    names: dict[str, None] = {}
    for where, value in objects:
        if not isinstance(value, dict):
            raise DataError(f"{where}: not a JSON object", got=repr(shorten(str(value), 80)), known=OBJECT)
        if value.keys() - names.keys():
            names |= dict.fromkeys(value)
    return list(names)


def _parquet(path: Path, layout: TableFormat) -> Values:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=BATCH):
                yield from _rows(names, [column.to_pylist() for column in batch.columns])
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: cannot be read as Parquet", got=str(error).split("\n")[0][:200]) from error


def _dataset(path: Path, layout: TableFormat) -> Values:
    """The rows of every split; if there are several splits, a column is added with each row's split."""
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except IndexError as error:  # raised by datasets for a split without a file
        raise no_rows(path, "a split of the saved data set is empty", "a split without rows") from error
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path}: not a readable data set", got=str(error).split("\n")[0][:200]) from error
    parts = found if isinstance(found, datasets.DatasetDict) else {"": found}
    first = next(iter(parts.values()))
    if any(part.column_names != first.column_names for part in parts.values()):
        raise DataError(
            f"{path}: the splits have different columns",
            got="; ".join(f"{name}: {', '.join(part.column_names)}" for name, part in parts.items()),
        )
    added = [] if "" in parts else [SPLIT_COLUMN]
    for split, part in parts.items():
        names = [*part.column_names, *added]
        readers = [_class_names(part.features[name]) for name in part.column_names]
        for batch in part.iter(batch_size=BATCH):
            size = len(next(iter(batch.values())))
            columns = [list(map(read, batch[name])) for name, read in zip(part.column_names, readers, strict=True)]
            yield from _rows(names, [*columns, *([split] * size for _ in added)])


def _class_names(feature: object) -> Callable[[Any], Any]:
    """Convert the numbers of a ClassLabel, or of a list of them, to names; other values stay unchanged."""
    names = getattr(feature, "names", None)
    inner = getattr(feature, "feature", None)
    if names is None and getattr(inner, "names", None) is not None:
        name = _class_names(inner)
        return lambda values: None if values is None else [name(value) for value in values]
    if names is None:
        return lambda value: value
    return lambda value: None if value is None or value < 0 else names[value]


def _rows(names: list[str], columns: list[list]) -> Values:
    for values in zip(*columns, strict=True):
        yield names, list(values)


def _workbook(path: Path, layout: TableFormat) -> Values:
    """The rows of the first sheet that has any. Cells right of the last column name must be empty."""
    rows = sheet_rows(path)
    names = [as_cell(name) for name in next(rows, (0, []))[1]] if layout.header else list(layout.columns)
    if not names:
        raise _empty(path)
    for number, cells in rows:
        if len(cells) > len(names):
            raise DataError(
                f"{path}, row {number}: {counted(len(cells), 'cell')}",
                got=repr(shorten(" | ".join(map(as_cell, cells)), 80)),
                known=f"{counted(len(names), 'column')}: {', '.join(names)}",
                do="Give every column a name in the first row.",
            )
        yield names, cells + [None] * (len(names) - len(cells))


def _folder(path: Path, layout: TableFormat) -> Values:
    """A row for each file in a folder of its label; with train, val and test folders above, also its split."""
    found = labelled_files(path)
    names = ["text", "label", "file", *([SPLIT_COLUMN] if any(own.split for own in found) else [])]
    for own in found:
        content = own.path.read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            if layout.encoding.startswith("utf-8"):
                raise DataError(
                    f"{own.path}: not UTF-8",
                    got=f"byte {content[error.start]:#x}",
                    do="Save the texts as UTF-8, or give their encoding with --encoding NAME.",
                ) from error
            text = content.decode(layout.encoding)
        yield names, [text, own.label, own.path.relative_to(path).as_posix(), own.split][: len(names)]


def with_fields(path: Path, layout: TableFormat, wanted: list[str | None]) -> TableFormat:
    """The layout with those of the wanted columns that are dotted names of nested fields."""
    dotted = [name for name in wanted if name and "." in name]
    if not dotted:
        return layout
    names = next(iterate_table(path, replace(layout, fields=())), ([],))[0]
    parts = [part.strip() for name in dotted for part in ([name] if name in names else name.split(","))]
    return replace(layout, fields=tuple(dict.fromkeys(part for part in parts if is_field(part, names))))


def no_rows(path: Path, what: str = "a header and no rows", got: str = "nothing below the header") -> DataError:
    """The error for a table without rows."""
    return DataError(
        f"{path}: {what}",
        got=got,
        known="a header, and below it one row per text",
        do="Is it the right file, and was it saved completely?",
    )


def _empty(path: Path) -> DataError:
    return no_rows(path, "the file is empty", f"{path.stat().st_size:,} bytes")


def _malformed(path: Path, layout: TableFormat, error: csv.Error) -> DataError:
    if "field larger" not in str(error):
        fix = "Close every quote that is opened."
        if _holds(path, layout, '\\"'):
            fix = 'Write a quote inside a text as two quotes, "", not as \\".'
        return DataError(f"{path}: cannot be read as a table", got=str(error), do=fix)
    quoted = _holds(path, layout, '"')
    fix = "Split the text into several rows." + " Or is there a quote that is never closed?" * quoted
    most = f"at most {FIELD_LIMIT:,} characters"
    return DataError(f"{path}: a cell is too long", got=str(error), known=most, do=fix)


def _holds(path: Path, layout: TableFormat, mark: str) -> bool:
    with open_text(path, layout.encoding, errors="replace") as file:
        return any(mark in block for block in iter(functools.partial(file.read, 1 << 20), ""))


def _not_utf8(path: Path, encoding: str, error: UnicodeDecodeError) -> DataError:
    byte = f"byte {error.object[error.start]:#x}"
    if not encoding.startswith("utf-8"):
        return DataError(f"{path}: not {encoding}", got=byte, do="Save it as UTF-8.")
    found = look_at_bytes(path)
    return DataError(f"{path}: not UTF-8", got=f"{byte} in line {found.line}; {found.share()}", do=found.fix())


def is_saved_dataset(path: Path) -> bool:
    """Whether this folder was written by `datasets` (``save_to_disk``)."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))
