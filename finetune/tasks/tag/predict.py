"""``finetune predict`` with a tagger: the names in texts, or in a column of a table."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from finetune.console import progress
from finetune.errors import DataError
from finetune.files import atomic_write
from finetune.tables.cells import escape_formula, table_writer
from finetune.tables.detect import detect_format, without_header
from finetune.tables.readers import SAMPLE, find_unlabelled_text, join_cells
from finetune.tables.tables import iterate_table
from finetune.tasks.tag.bundle import Name, TagBundle
from finetune.tasks.tag.sentences import HEADER_NAMES

ADDED = "names"  # the column that a table gets
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
    directory: Path, source: Path, target: Path, text: str | None, encoding: str | None, header: bool
) -> Iterator[str]:
    """Copy a table with a further column ``names``: a JSON list of kind, text, start, end and probability."""
    if target.resolve() == source.resolve():
        raise DataError(f"{target}: the output would overwrite the input table", do="Give another --out.")
    bundle = TagBundle.load(directory)
    layout = detect_format(source, encoding, HEADER_NAMES if header else frozenset()).layout
    layout = layout if header else without_header(source, layout)
    total = sum(1 for _ in iterate_table(source, layout))
    table = iterate_table(source, layout)
    sample = list(itertools.islice(table, SAMPLE))
    if not sample:
        raise DataError(
            f"{source}: a header and no rows", do="Add rows; or give --no-header, if the first line is one."
        )
    columns = sample[0][0]
    if ADDED in columns:
        raise DataError(f"{source}: has the column that the output adds", got=ADDED, do="Rename it first.")
    at = find_unlabelled_text(columns, [cells for _, cells in sample], text, source)
    rows, found = (cells for _, cells in itertools.chain(sample, table)), 0
    with atomic_write(target) as file, progress("finding names", total, unit="rows") as advance:
        writer = table_writer(file, "\t" if target.suffix.lower() == ".tsv" else ",")
        writer.writerow([*map(escape_formula, columns), ADDED])
        while chunk := list(itertools.islice(rows, CHUNK)):
            names = bundle.names([join_cells(cells, at) for cells in chunk])
            writer.writerows([*map(escape_formula, cells), _cell(own)] for cells, own in zip(chunk, names, strict=True))
            found += sum(map(len, names))
            advance(len(chunk))
    yield f"{target}: {total:,} rows, {found:,} names, text {','.join(columns[index] for index in at)!r}"


def _cell(names: list[Name]) -> str:
    rounded = [asdict(name) | {"probability": round(name.probability, 6)} for name in names]
    return json.dumps(rounded, ensure_ascii=False)
