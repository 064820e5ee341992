"""Token ids of many texts in one array: two or four bytes per token, instead of forty in a list of lists."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import overload

import numpy as np

from finetune.console import progress, unseen
from finetune.errors import RunError
from finetune.files import atomic_write
from finetune.tables.readers import text_chunks
from finetune.tokenizer import Tokenizer

PART = 50_000  # rows gathered at a time


class TokenRows(Sequence[list[int]]):
    """Rows of token ids, returned as lists; slicing and adding return TokenRows."""

    def __init__(self, ids: np.ndarray, ends: np.ndarray):
        self.ids, self.ends = ids, ends  # (tokens,) and, for n rows, (n,)

    @classmethod
    def of(cls, chunks: Iterable[list[list[int]]], vocab_size: int) -> "TokenRows":
        """Pack rows from an iterable of chunks; only one chunk at a time is held as lists."""
        kind = np.uint16 if vocab_size <= 1 << 16 else np.uint32
        parts, lengths = [np.zeros(0, kind)], [np.zeros(0, np.int64)]
        for rows in chunks:
            lengths.append(np.array([len(row) for row in rows], np.int64))
            parts.append(np.fromiter(itertools.chain.from_iterable(rows), kind, int(lengths[-1].sum())))
        return cls(np.concatenate(parts), np.cumsum(np.concatenate(lengths)))

    def lengths(self) -> list[int]:
        """Number of tokens in each row."""
        return np.diff(self.ends, prepend=0).tolist()

    def take(self, rows: Sequence[int], most: int | None = None) -> "TokenRows":
        """These rows, in this order, each truncated to `most` tokens; indices may repeat."""
        at = np.asarray(rows, dtype=np.int64)
        lengths = np.diff(self.ends, prepend=0)[at]
        starts = self.ends[at] - lengths
        kept = lengths if most is None else np.minimum(lengths, most)
        ends = np.cumsum(kept)
        parts = [np.zeros(0, self.ids.dtype)]
        for some in np.array_split(np.arange(len(at)), len(at) // PART + 1):  # bounds the memory of the index arrays
            count = kept[some]
            inside = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)  # positions in rows
            parts.append(self.ids[np.repeat(starts[some], count) + inside])
        return TokenRows(np.concatenate(parts), ends)

    def save(self, path: Path) -> None:
        """Write PATH.ids and PATH.ends, which ``load`` memory-maps."""
        for ending, values in (("ids", self.ids), ("ends", self.ends.astype(np.int64))):
            with atomic_write(path.with_name(f"{path.name}.{ending}"), "wb") as file:
                file.write(np.ascontiguousarray(values).data)

    @classmethod
    def load(cls, path: Path) -> "TokenRows":
        """Memory-map the files of ``save``; pages are read from disk on demand. Raises RunError."""
        ids, ends = (path.with_name(f"{path.name}.{ending}") for ending in ("ids", "ends"))
        try:
            rows = np.fromfile(ends, dtype=np.int64)
            tokens = int(rows[-1]) if len(rows) else 0
            kinds = {2 * tokens: np.uint16, 4 * tokens: np.uint32}
            return cls(
                np.memmap(ids, dtype=kinds[ids.stat().st_size], mode="r") if tokens else np.zeros(0, np.uint16), rows
            )
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                f"{ids}: not the tokens written by this run", got=str(error)[:120], do="Run again with --from prepare."
            ) from error

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...

    @overload
    def __getitem__(self, index: slice) -> "TokenRows": ...

    def __getitem__(self, index: int | slice) -> "list[int] | TokenRows":
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        at = range(len(self))[index]
        return self.ids[self.ends[at - 1] if at else 0 : self.ends[at]].tolist()

    def __add__(self, other: "TokenRows") -> "TokenRows":
        return TokenRows(np.concatenate([self.ids, other.ids]), np.concatenate([self.ends, other.ends + len(self.ids)]))


def encode(tokenizer: Tokenizer, texts: list[str], max_length: int | None = None, show: str = "") -> TokenRows:
    """Ids of each text, truncated to `max_length`, without special tokens. show: label of a progress bar."""
    with progress(show, len(texts), unit="texts") if show else nullcontext(unseen) as advance:

        def chunks() -> Iterator[list[list[int]]]:
            for _, part in text_chunks(texts):
                yield [ids[:max_length] for ids in tokenizer.encode_batch(part)]
                advance(len(part))

        return TokenRows.of(chunks(), tokenizer.vocab_size)
