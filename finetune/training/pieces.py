"""Which parts of a long text a classifier reads, and how it combines their results.

Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", arXiv:1905.05583, section 5.3.1, compare the ways: only
the beginning; head and tail (of 512 tokens, the first 128 and the last 382); and parts whose results are averaged.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.errors import RunError
from finetune.files import atomic_write
from finetune.training.token_rows import TokenRows

CUT, HEAD_TAIL, WINDOWS = "cut", "head-tail", "windows"
WAYS = (CUT, HEAD_TAIL, WINDOWS)
_CHUNK = 100  # rows held as lists at a time


def pieces_of(ids: list[int], way: str, most: int) -> list[list[int]]:
    """The parts of a text that are read: pieces of at most `most` token ids.

    A text that fits is one piece. Of a longer text, `cut` reads the beginning, `head-tail` reads `most` / 4 tokens from
    the start and the rest from the end, and `windows` reads everything; consecutive windows overlap by `most` / 4 tokens.
    transformers' tokenizers return the same windows for ``return_overflowing_tokens`` and a ``stride`` of `most` / 4.
    """
    quarter = most // 4
    if len(ids) <= most or way == CUT:
        return [ids[:most]]
    if way == HEAD_TAIL:
        return [ids[:quarter] + ids[quarter - most :]]
    return [ids[at : at + most] for at in range(0, len(ids) - quarter, most - quarter)]


def count_windows(lengths: np.ndarray, most: int) -> np.ndarray:
    """The number of windows (n,) of texts of these lengths (n,)."""
    quarter = most // 4
    return np.where(lengths <= most, 1, -((quarter - lengths) // (most - quarter)))


@dataclass(frozen=True)
class Pieces:
    """The pieces of n texts, side by side."""

    ids: TokenRows
    counts: np.ndarray | None = None  # (n,) pieces of each text; None: one each

    @classmethod
    def of(cls, texts: TokenRows, way: str, most: int, rows: Sequence[int] | None = None) -> "Pieces":
        """The pieces of all these texts, or of some `rows` of them."""
        rows = range(len(texts)) if rows is None else rows
        if way == CUT:
            return cls(texts.take(rows, most))
        counts: list[int] = []

        def chunks() -> Iterator[list[list[int]]]:
            for start in range(0, len(rows), _CHUNK):
                found = [pieces_of(ids, way, most) for ids in texts.take(rows[start : start + _CHUNK])]
                counts.extend(map(len, found))
                yield [piece for pieces in found for piece in pieces]

        ids = TokenRows.of(chunks(), np.iinfo(texts.ids.dtype).max)
        return cls(ids, np.array(counts) if len(ids) > len(counts) else None)

    def save(self, path: Path) -> None:
        """Write the ids, and PATH.pieces if a text has several pieces."""
        self.ids.save(path)
        counts = path.with_name(f"{path.name}.pieces")
        if self.counts is None:
            counts.unlink(missing_ok=True)
            return
        with atomic_write(counts, "wb") as file:
            file.write(self.counts.astype(np.int64).data)

    @classmethod
    def load(cls, path: Path) -> "Pieces":
        """Read what ``save`` wrote. Raises RunError."""
        ids, counts = TokenRows.load(path), path.with_name(f"{path.name}.pieces")
        if not counts.exists():
            return cls(ids)
        found = np.frombuffer(counts.read_bytes(), dtype=np.int64) if counts.stat().st_size % 8 == 0 else None
        if found is None or (found < 1).any() or found.sum() != len(ids):
            raise RunError(f"{counts}: not the counts written by this run", do="Run again with --from prepare.")
        return cls(ids, found)


def average(logits: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    """The logits of texts (n, K): the mean over the logits of each text's pieces (P, K). counts: of ``Pieces``.

    The mean of the logits differs from the mean of the log-probabilities by a constant over the classes, so that the
    softmax is the same at any temperature. With many labels, this is the mean of each label's log-odds.
    """
    if counts is None:
        return logits
    sums = np.add.reduceat(logits.astype(np.float64), np.cumsum(counts) - counts, axis=0)
    means: np.ndarray = (sums / counts[:, None]).astype(logits.dtype)
    return means
