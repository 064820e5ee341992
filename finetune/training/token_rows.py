"""Token ids of many texts in one array: two or four bytes a token, where a list of lists takes forty."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np


class TokenRows(Sequence):
    """Rows of ids, read as lists; a slice and a sum are rows again."""

    def __init__(self, ids: np.ndarray, ends: np.ndarray):
        self.ids, self.ends = ids, ends  # (tokens,) and, for n rows, (n,)

    @classmethod
    def of(cls, chunks: Iterable[list[list[int]]], vocab_size: int) -> "TokenRows":
        """Pack rows that come in chunks; only one chunk is ever held as lists."""
        kind = np.uint16 if vocab_size <= 1 << 16 else np.uint32
        parts, lengths = [np.zeros(0, kind)], [np.zeros(0, np.int64)]
        for rows in chunks:
            lengths.append(np.array([len(row) for row in rows], np.int64))
            parts.append(np.fromiter(itertools.chain.from_iterable(rows), kind, int(lengths[-1].sum())))
        return cls(np.concatenate(parts), np.cumsum(np.concatenate(lengths)))

    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return np.diff(self.ends, prepend=0).tolist()

    def take(self, rows: Iterable[int]) -> "TokenRows":
        """These rows, in this order; one may come more than once."""
        return self.of([[self[i] for i in rows]], 256 ** self.ids.itemsize)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        at = range(len(self))[index]
        return self.ids[self.ends[at - 1] if at else 0:self.ends[at]].tolist()

    def __add__(self, other: "TokenRows") -> "TokenRows":
        return TokenRows(np.concatenate([self.ids, other.ids]),
                         np.concatenate([self.ends, other.ends + len(self.ids)]))
