"""All rows of a job on its device: a batch is indexed there, and only row numbers are copied.

Measured by benchmarks/gpu.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

MOST_ROWS = 200_000  # above it, collating every row before the first step takes too long


@dataclass(frozen=True)
class Column:
    """One tensor of a batch, for all rows. sizes: each row's length; None if a row has a single value."""

    values: Tensor  # concatenated rows (sum of sizes, ...), or (n, ...)
    pad: int | None
    sizes: list[int] | None = None
    starts: Tensor | None = None  # (n,)
    ends: Tensor | None = None  # (n,)

    @classmethod
    def of(cls, parts: list[Tensor], pad: int | None, device: torch.device) -> Self:
        """The column of these parts: each row's tensor in a batch of one row."""
        if pad is None:
            return cls(torch.cat(parts).to(device), None)
        values = torch.cat([part[0] for part in parts])
        if values.dtype == torch.long:
            values = values.to(torch.int32)  # ids and targets
        sizes = [part.shape[1] for part in parts]
        ends = torch.tensor(sizes, device=device).cumsum(0)
        return cls(values.to(device), pad, sizes, ends - torch.tensor(sizes, device=device), ends)

    def take(self, rows: Tensor, longest: int) -> Tensor:
        """The values of these rows (B,): (B, ...), or (B, longest, ...) for ragged rows, padded on the right."""
        if self.pad is None or self.starts is None or self.ends is None:
            return self.values[rows]
        at = self.starts[rows][:, None] + torch.arange(longest, device=rows.device)  # (B, T)
        inside = at < self.ends[rows][:, None]
        found = self.values[at.clamp(max=len(self.values) - 1)]
        found = found.long() if found.dtype == torch.int32 else found
        return torch.where(inside.view(*inside.shape, *[1] * (found.dim() - 2)), found, self.pad).to(found.dtype)


class DeviceRows:
    """The rows of a job: one column for each tensor of a batch."""

    def __init__(self, columns: list[Column]):
        self.columns = columns
        self.most = tuple(max(column.sizes) if column.sizes else 0 for column in columns)

    @classmethod
    def of(
        cls,
        batch: Callable[[list[int]], tuple[Tensor, ...]],
        rows: int,
        pads: Sequence[int | None] | None,
        device: torch.device,
        most_bytes: float,
    ) -> Self | None:
        """Collate every row once; None if there are too many, or if they take more than `most_bytes`.

        batch, pads: those of the job. pads holds, for each tensor of a batch, the padding value of its second dimension,
        or None if a row has a single value; it is None for a job whose batches change or are read from a file.
        """
        if pads is None or rows > MOST_ROWS:
            return None
        found, size = [], 0
        for row in range(rows):
            found.append(batch([row]))
            size += sum(tensor.numel() * tensor.element_size() for tensor in found[-1])
            if size > most_bytes:
                return None
        return cls(
            [Column.of(list(parts), pad, device) for parts, pad in zip(zip(*found, strict=True), pads, strict=True)]
        )

    def longest(self, rows: list[int]) -> tuple[int, ...]:
        """The length of the longest of these rows in each column; 0 if the column is not ragged."""
        return tuple(max(column.sizes[row] for row in rows) if column.sizes else 0 for column in self.columns)

    def take(self, rows: Tensor, longest: Sequence[int]) -> tuple[Tensor, ...]:
        """A batch of these rows (B,), on the device, padded to these lengths."""
        return tuple(column.take(rows, most) for column, most in zip(self.columns, longest, strict=True))


def padded_length(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96 and so on: few lengths, and at most half of the positions are padding."""
    power = 16
    while power < length:
        power *= 2
    between = power * 3 // 4
    return between if between > 16 and length <= between else power


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU without waiting for the device's queued work."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
