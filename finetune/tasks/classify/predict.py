"""``finetune predict`` with a classifier: a label for each text, or for each row of a table."""

from collections.abc import Iterator
from pathlib import Path

from finetune.tasks.classify.bundle import Bundle
from finetune.tasks.classify.bundle import predict_table as fill_table


def predict_texts(directory: Path, texts: list[str]) -> Iterator[str]:
    """A label and its probability for each text."""
    ready = Bundle.load(directory)
    for label, p in zip(*ready.predict(texts), strict=True):
        yield f"{' '.join(label.split())}\t{p[ready.labels.index(label)]:.4f}"


def predict_table(
    directory: Path,
    source: Path,
    target: Path,
    text: str | None,
    encoding: str | None,
    header: bool,
    overwrite: bool = False,
) -> Iterator[str]:
    """Fill a table, and say what was read."""
    counts = fill_table(Bundle.load(directory), source, target, text, encoding, header, overwrite)
    yield from (f"note: {note}" for note in counts["notes"])
    yield (
        f"{target}: {counts['rows']:,} rows, text {counts['text_column']!r}"
        + (f", {counts['without_text']:,} of them without text" if counts["without_text"] else "")
    )
