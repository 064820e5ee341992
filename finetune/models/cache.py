"""The KV cache for incremental decoding. Shape letters as in gpt.py, and L layers."""

from typing import NamedTuple

import torch
from torch import Tensor


class KVCache:
    """Keys and values of every layer, (L, B, H, T_max, D) each; the first `length` positions are filled.

    Memory is allocated once, at the first write, which also sets the number of heads, the dtype and the device.
    Sequences of unequal length are left-padded: sequence b begins at position start[b], and earlier positions are
    masked.
    """

    def __init__(self, layers: int, room: int):
        self.layers = [LayerCache(self, layer) for layer in range(layers)]
        self.room, self.length = room, 0  # T_max, and how much of it is filled
        self.start: Tensor | None = None  # (B,); None: every sequence begins at 0
        self.keys = self.values = torch.empty(0)

    def clear(self, start: Tensor | None = None) -> None:
        """Clear the cache; the next sequences begin at `start`."""
        self.length, self.start = 0, start

    def select(self, rows: Tensor) -> None:
        """Select these sequences in this order, (B_new,); indices may repeat."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old if len(rows) == old.shape[1] else old.new_empty(old.shape[0], len(rows), *old.shape[2:])
            new[:, :, :, : self.length] = old[:, rows, :, : self.length]
            setattr(self, name, new)
        if self.start is not None:
            self.start = self.start[rows]

    def positions(self, T: int, device: torch.device, first: int | None = None) -> Tensor:
        """Position ids of the next T tokens: (T,), or (B, T) for left-padded sequences; padding has position 0.

        first: also include cached positions, starting at this column.
        """
        columns = torch.arange(self.length if first is None else first, self.length + T, device=device)
        return columns if self.start is None else (columns - self.start[:, None]).clamp(min=0)

    def mask(self, T: int, device: torch.device) -> Tensor | None:
        """Attention mask of the next T tokens, (T, S) or (B, 1, T, S); None where plain causal attention is equivalent.

        A padding token attends to itself, because softmax over a fully masked row is NaN.
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
    """The view of a cache that one attention layer uses."""

    def __init__(self, cache: KVCache, layer: int):
        self.cache, self.layer = cache, layer

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values of new tokens, (B, H, T, D); returns all cached ones, (B, H, S, D)."""
        cache, (B, H, T, D) = self.cache, k.shape
        if not cache.keys.numel():
            cache.keys, cache.values = (k.new_empty(len(cache.layers), B, H, cache.room, D) for _ in range(2))
        filled = cache.length + T
        keys, values = cache.keys[self.layer, :, :, :filled], cache.values[self.layer, :, :, :filled]
        keys[:, :, cache.length :], values[:, :, cache.length :] = k, v
        return keys, values


class Source(NamedTuple):
    """Cross-attention keys and values of the encoded sources, one source per sequence; S source tokens."""

    keys: Tensor  # (B, H, S, D)
    values: Tensor
    mask: Tensor  # (B, 1, 1, S), false at padding


class SourceCache(KVCache):
    """A decoder's self-attention cache plus its encoded sources, which are kept when the target is cleared."""

    def __init__(self, layers: int, room: int, sources: list[Source]):
        super().__init__(layers, room)
        self.sources = sources  # (L)
        self.owner = torch.arange(len(sources[0].mask), device=sources[0].mask.device)  # index of each row's source

    def select(self, rows: Tensor) -> None:
        """Select these sequences in this order, each with its source."""
        super().select(rows)
        owner = self.owner[rows]
        if not torch.equal(owner, self.owner):  # otherwise beams were only reordered within their source
            self.sources = [Source(*(part[rows] for part in source)) for source in self.sources]
            self.owner = owner
