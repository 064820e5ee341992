"""Write a table with added columns, row by row: CSV, TSV, JSONL or Parquet, by the extension of the file."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from finetune.errors import DataError, listed
from finetune.files import atomic_write
from finetune.tables.cells import escape_formula, table_writer
from finetune.tables.tables import TableFormat, as_cell, is_missing

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


class RowWriter(Protocol):
    """A writer of rows, from ``open_writer``."""

    def write(self, rows: Sequence[Sequence[Any]], answers: Sequence[Sequence[Any]]) -> None:
        """Append rows: the values of the source and those of the added columns; None is missing."""


@contextmanager
def open_writer(
    target: Path, names: list[str], added: list[str], source: Path, layout: TableFormat, texts: int = 1
) -> Iterator[RowWriter]:
    """A writer to a file that is created atomically.

    names: the columns of the source that are kept. added: the first `texts` are text, the others are numbers. CSV and TSV escape
    what a spreadsheet would run as a formula, JSONL keeps the types of the source, and Parquet those of a Parquet
    source; other sources give text. Raises DataError for a duplicate column name if the file type does not allow it.
    """
    ending = target.suffix.lower()
    every = [*names, *added]
    if ending not in (".csv", ".tsv") and len(set(every)) < len(every):
        twice = sorted({name for name in every if every.count(name) > 1})
        raise DataError(f"{target}: several columns have the same name", got=listed(twice), do="Write a .csv file.")
    if ending == ".parquet":
        with atomic_write(target, "wb") as file, _parquet(file, names, added, source, layout, texts) as writer:
            yield writer
        return
    with atomic_write(target) as file:
        yield _Lines(file, every) if ending in (".jsonl", ".ndjson") else _Cells(file, ending, every)


class _Cells:
    def __init__(self, file: Any, ending: str, names: list[str]):
        self.writer = table_writer(file, "\t" if ending == ".tsv" else ",")
        self.writer.writerow(list(map(escape_formula, names)))

    def write(self, rows: Sequence[Sequence[Any]], answers: Sequence[Sequence[Any]]) -> None:
        for values, answer in zip(rows, answers, strict=True):
            self.writer.writerow([*(escape_formula(as_cell(value)) for value in values), *map(_answer_cell, answer)])


class _Lines:
    def __init__(self, file: Any, names: list[str]):
        self.file, self.names = file, names

    def write(self, rows: Sequence[Sequence[Any]], answers: Sequence[Sequence[Any]]) -> None:
        for values, answer in zip(rows, answers, strict=True):
            own = [None if is_missing(value) else value for value in values]
            row = dict(zip(self.names, [*own, *_rounded(answer)], strict=True))
            line = json.dumps(row, ensure_ascii=False, default=as_cell)
            self.file.write(line.encode("utf-8", "replace").decode() + "\n")


@contextmanager
def _parquet(
    file: Any, names: list[str], added: list[str], source: Path, layout: TableFormat, texts: int
) -> Iterator[RowWriter]:
    import pyarrow
    from pyarrow import parquet

    kept = parquet.read_schema(source) if layout.kind == "parquet" else None
    fields = [kept.field(name) if kept else pyarrow.field(name, pyarrow.string()) for name in names]
    fields += [
        pyarrow.field(name, pyarrow.string() if at < texts else pyarrow.float64()) for at, name in enumerate(added)
    ]
    schema = pyarrow.schema(fields)
    with parquet.ParquetWriter(file, schema) as writer:

        class Rows:
            @staticmethod
            def write(rows: Sequence[Sequence[Any]], answers: Sequence[Sequence[Any]]) -> None:
                whole = [
                    [*(values if kept else map(_text, values)), *_rounded(answer)]
                    for values, answer in zip(rows, answers, strict=True)
                ]
                columns = zip(*whole, strict=True)
                arrays = [pyarrow.array(own, field.type) for own, field in zip(columns, schema, strict=True)]
                writer.write_table(pyarrow.table(arrays, schema=schema))

        yield Rows()


def _answer_cell(value: Any) -> str:
    """The cell of an answer: text with formulas escaped, a number with six decimals, or empty."""
    if value is None:
        return ""
    return escape_formula(value) if isinstance(value, str) else f"{value:.6f}"


def _text(value: Any) -> str | None:
    return None if is_missing(value) else as_cell(value)


def _rounded(answer: Sequence[Any]) -> list[Any]:
    """The answers with numbers rounded to six decimals, as in CSV."""
    return [round(float(value), 6) if isinstance(value, float) else value for value in answer]
