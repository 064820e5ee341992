"""A table from standard input, saved to a file because it is read more than once."""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import DataError
from finetune.files import atomic_write
from finetune.tables.tables import lists_of_objects

DASH = "-"  # the name of standard input on the command line


@contextmanager
def table_name(name: str, folder: Path | None = None) -> Iterator[str]:
    """The name of a table; for a dash, the path of a file with the content of standard input, named by its hash.

    folder: where that file is kept; None: it is deleted at the end of the block. Raises DataError if the input is empty.
    """
    if name != DASH:
        yield name
        return
    content = sys.stdin.buffer.read()
    if not content.strip():
        raise DataError("standard input is empty", known="a table with a header", do="For example: cat my.csv | ... -")
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"stdin-{hashlib.sha256(content).hexdigest()[:12]}{_ending(content)}"
        with atomic_write(path, "wb") as file:
            file.write(content)
        yield str(path)


def _ending(content: bytes) -> str:
    """The extension that fits the content. A table of cells is .csv, whose delimiter is detected."""
    for magic, ending in ((b"PAR1", ".parquet"), (b"PK\x03\x04", ".xlsx"), (b"\x1f\x8b", ".csv.gz")):
        if content.startswith(magic):
            return ending
    start = content.lstrip()[:1]
    if start not in (b"[", b"{"):
        return ".csv"
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return ".jsonl" if start == b"{" else ".csv"
    return ".json" if isinstance(value, list) or lists_of_objects(value) else ".jsonl"
