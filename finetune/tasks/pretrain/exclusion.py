"""Find documents that contain a row of an evaluation set, to leave them out of the training text.

Words are casefolded runs of letters and digits, so that punctuation and spacing do not matter. A document contains a
row of 8 or more words if it has at least half of the row's different 8-grams of words, and a shorter row if one of its
lines, without a leading speaker's name, is the row. Rows of fewer than 3 words occur in any text and are ignored.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from finetune.errors import DataError

GRAM = 8  # words
LEAST_WORDS = 3  # shorter rows are ignored
LEAST_SHARE = 0.5  # of a row's grams
LONGEST_CELL = 1 << 24  # characters
_WORD = re.compile(r"[^\W_]+")
_SPEAKER = re.compile(r"^[^\W_]{1,12}: ")
_FACTOR = 0x9E3779B97F4A7C15  # odd, so that no power of it vanishes modulo 2 ** 64


class Exclusion:
    """Searches documents for the rows of evaluation sets. Memory: 12 bytes per 8-gram, and the words of short rows."""

    def __init__(self, rows: Iterable[str]):
        self.lines: set[tuple[str, ...]] = set()
        grams, owners = [], []
        sizes: list[int] = []
        seen: set[int] = set()
        for row in rows:
            words = tuple(_words(row))
            if LEAST_WORDS <= len(words) < GRAM:
                self.lines.add(words)
            elif len(words) >= GRAM and hash(words) not in seen:
                seen.add(hash(words))
                grams.append(np.unique(_grams(words)))
                owners.append(np.full(len(grams[-1]), len(sizes), np.uint32))
                sizes.append(len(grams[-1]))
        self.sizes = np.array(sizes)
        found = np.concatenate(grams or [np.zeros(0, np.uint64)])
        order = np.argsort(found, kind="stable")
        self.grams, self.owners = found[order], np.concatenate(owners or [np.zeros(0, np.uint32)])[order]

    def __len__(self) -> int:
        return len(self.sizes) + len(self.lines)

    def holds(self, text: str) -> bool:
        """Whether a document contains a row."""
        return self._has_grams(text) or self._has_line(text)

    def _has_grams(self, text: str) -> bool:
        words = _words(text)
        if len(words) < GRAM or not len(self.grams):
            return False
        grams = np.unique(_grams(words))
        start = np.searchsorted(self.grams, grams)
        grams, start = (x[self.grams[np.minimum(start, len(self.grams) - 1)] == grams] for x in (grams, start))
        stop = np.searchsorted(self.grams, grams, side="right")
        if not len(grams):
            return False
        owners = np.concatenate([self.owners[first:last] for first, last in zip(start, stop, strict=True)])
        rows, counts = np.unique(owners, return_counts=True)
        return bool((counts >= LEAST_SHARE * self.sizes[rows]).any())

    def _has_line(self, text: str) -> bool:
        return (
            any(
                tuple(_words(form)) in self.lines
                for line in text.splitlines()
                if len(line) < 200
                for form in {line, _SPEAKER.sub("", line)}
            )
            if self.lines
            else False
        )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _grams(words: list[str] | tuple[str, ...]) -> np.ndarray:
    """A number for each 8-gram (uint64), the same for the same words within one process."""
    numbers = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    count = len(words) - GRAM + 1
    total = np.zeros(count, np.uint64)
    for offset in range(GRAM):
        total = total * np.uint64(_FACTOR) + numbers[offset : offset + count]
    return total


def evaluation_files(paths: Iterable[str]) -> list[Path]:
    """The files named by ``pretrain.exclude`` and those in its folders. Raises DataError for a missing path."""
    files = []
    for path in (Path(path).expanduser() for path in paths):
        if not path.exists():
            raise DataError(
                f"pretrain.exclude: no such file or folder: {path}",
                do="Give the path of a table, a text or a folder of them.",
            )
        files += sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return files


def evaluation_rows(file: Path) -> Iterator[str]:
    """Every row of a file: the cells of a table, the strings of JSON, the lines of text. Raises DataError."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            if file.suffix == ".json":
                yield from _strings(json.load(opened))
            elif file.suffix == ".jsonl":
                for line in opened:
                    yield from _strings(json.loads(line)) if line.strip() else ()
            elif file.suffix == ".csv":
                csv.field_size_limit(LONGEST_CELL)
                for cells in csv.reader(opened):
                    yield from cells
            else:
                for line in opened:
                    yield from line.split("\t")
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DataError(
            f"{file}: not a readable evaluation set",
            got=str(error)[:100],
            known=".csv, .tsv, .json, .jsonl and plain text, in UTF-8",
        ) from error


def _strings(value: object) -> Iterator[str]:
    """All strings in a JSON value except keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
