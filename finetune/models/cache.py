"""Keys and values of what a model has read, kept for the tokens to come. Shape letters as in gpt.py, and L layers."""

from typing import NamedTuple

import torch
from torch import Tensor


class KVCache:
    """Keys and values of every layer, (L, B, H, T_max, D) each, of which the first `length` positions are filled.

    The memory is taken once, at the first write, which also says the heads, the type and the device. Sequences of
    unequal length stand with their ends together: sequence b begins at position start[b], and what is before it is
    hidden from it.
    """

    def __init__(self, layers: int, room: int):
        self.layers = [LayerCache(self, layer) for layer in range(layers)]
        self.room, self.length = room, 0  # T_max, and how much of it is filled
        self.start: Tensor | None = None  # (B,); none: every sequence begins at 0
        self.keys = self.values = torch.empty(0)

    def clear(self, start: Tensor | None = None) -> None:
        """Forget what was read; the next sequences begin at `start`."""
        self.length, self.start = 0, start

    def select(self, rows: Tensor) -> None:
        """Keep these sequences in this order, (B_new,); one may come more than once."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old if len(rows) == old.shape[1] else old.new_empty(old.shape[0], len(rows), *old.shape[2:])
            new[:, :, :, : self.length] = old[:, rows, :, : self.length]
            setattr(self, name, new)
        if self.start is not None:
            self.start = self.start[rows]

    def positions(self, T: int, device: torch.device, first: int | None = None) -> Tensor:
        """Where the next T tokens stand in their sequences: (T,), or (B, T) if these begin apart; pads stand at 0.

        first: tell it of those in the cache, too, from this column on.
        """
        columns = torch.arange(self.length if first is None else first, self.length + T, device=device)
        return columns if self.start is None else (columns - self.start[:, None]).clamp(min=0)

    def mask(self, T: int, device: torch.device) -> Tensor | None:
        """What the next T tokens may look at, (T, S) or (B, 1, T, S); none where plain causal attention says the same.

        A pad sees itself, since a row that sees nothing has no softmax.
        """
        if self.start is None and (T == 1 or self.length == 0):
            return None
        columns = torch.arange(self.length + T, device=device)
        queries = columns[self.length :, None]
        causal = columns <= queries  # (T, S)
        if self.start is None:
            return causal
        real = columns >= self.start[:, None, None]  # (B, 1, S)
        return (causal & (real | (columns == queries)))[:, None]


class LayerCache:
    """One layer of a cache, as its attention sees it."""

    def __init__(self, cache: KVCache, layer: int):
        self.cache, self.layer = cache, layer

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values of new tokens, (B, H, T, D); returns all there are, (B, H, S, D)."""
        cache, (B, H, T, D) = self.cache, k.shape
        if not cache.keys.numel():
            cache.keys, cache.values = (k.new_empty(len(cache.layers), B, H, cache.room, D) for _ in range(2))
        filled = cache.length + T
        keys, values = cache.keys[self.layer, :, :, :filled], cache.values[self.layer, :, :, :filled]
        keys[:, :, cache.length :], values[:, :, cache.length :] = k, v
        return keys, values


class Source(NamedTuple):
    """What one cross-attention reads of the sources, a source for each sequence; S tokens of source."""

    keys: Tensor  # (B, H, S, D)
    values: Tensor
    mask: Tensor  # (B, 1, 1, S), true where no pad is


class SourceCache(KVCache):
    """A decoder's cache beside its sources, which were read once and stay when the target is forgotten."""

    def __init__(self, layers: int, room: int, sources: list[Source]):
        super().__init__(layers, room)
        self.sources = sources  # (L)
        self.owner = torch.arange(len(sources[0].mask), device=sources[0].mask.device)  # whose source stands in a row

    def select(self, rows: Tensor) -> None:
        """Keep these sequences in this order, each with its source."""
        super().select(rows)
        owner = self.owner[rows]
        if not torch.equal(owner, self.owner):  # else only beams of one source changed places
            self.sources = [Source(*(part[rows] for part in source)) for source in self.sources]
            self.owner = owner
