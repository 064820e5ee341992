"""``finetune predict`` with a tagger: the names in texts, or in a column of a table."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune.console import progress
from finetune.errors import DataError, counted
from finetune.tables.detect import detect_format, without_header
from finetune.tables.readers import SAMPLE, find_unlabelled_text, join_cells
from finetune.tables.tables import as_cell, iterate_values
from finetune.tables.writers import open_writer
from finetune.tasks.tag.bundle import Name, TagBundle
from finetune.tasks.tag.sentences import HEADER_NAMES
from finetune.training.sharing import chunks, follow, lead

ADDED = "names"  # the added column
CHUNK = 512  # rows in memory at a time


def predict_texts(directory: Path, texts: list[str]) -> Iterator[str]:
    """A line for each name: kind, name, probability; an empty line between texts."""
    for number, names in enumerate(TagBundle.load(directory).names(texts)):
        if number:
            yield ""
        for name in names:
            yield f"{name.kind}\t{name.text}\t{name.probability:.4f}"
        if not names:
            yield "no names"


def predict_table(
    directory: Path,
    source: Path,
    target: Path,
    text: str | None,
    encoding: str | None,
    header: bool,
    overwrite: bool = False,
) -> Iterator[str]:
    """Copy a table and add the column ``names``: a JSON list of kind, text, start, end and probability."""
    if target.resolve() == source.resolve():
        raise DataError(f"{target}: the output would overwrite the input table", do="Give another --out.")
    bundle = TagBundle.load(directory)
    layout = detect_format(source, encoding, HEADER_NAMES if header else frozenset()).layout
    layout = layout if header else without_header(source, layout)
    total = sum(1 for _ in iterate_values(source, layout))
    table = iterate_values(source, layout)
    sample = list(itertools.islice(table, SAMPLE))
    if not sample:
        raise DataError(
            f"{source}: a header and no rows", do="Add rows, or give --no-header if the first line is data."
        )
    columns = sample[0][0]
    if ADDED in columns and not overwrite:
        raise DataError(
            f"{source}: has the column that the output adds", got=ADDED, do="Rename it first, or give --overwrite."
        )
    at = find_unlabelled_text(columns, [list(map(as_cell, values)) for _, values in sample], text, source)
    kept = [place for place, name in enumerate(columns) if name != ADDED]
    rows, found = (values for _, values in itertools.chain(sample, table)), 0

    def texts_of(chunk: list[list[Any]]) -> list[str]:
        return [join_cells(list(map(as_cell, values)), at) for values in chunk]

    with (
        open_writer(target, [columns[place] for place in kept], [ADDED], source, layout) as writer,
        progress("finding names", total, unit="rows") as advance,
    ):
        for chunk, names in lead(("predict", str(directory)), chunks(rows, CHUNK), texts_of, bundle.names):
            writer.write([[values[place] for place in kept] for values in chunk], [[_cell(own)] for own in names])
            found += sum(map(len, names))
            advance(len(chunk))
    yield f"{target}: {counted(total, 'row')}, {counted(found, 'name')}, text {','.join(columns[index] for index in at)!r}"


def help_predict(directory: Path) -> None:
    """Find the names in this process's part of the table that the first process fills."""
    follow(TagBundle.load(directory).names)


def _cell(names: list[Name]) -> str:
    rounded = [asdict(name) | {"probability": round(name.probability, 6)} for name in names]
    return json.dumps(rounded, ensure_ascii=False)
