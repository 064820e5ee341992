"""Collate ragged rows into tensors, padded on the right to the longest row of the batch."""

from collections.abc import Sequence, Sized

import torch
from torch import Tensor


def pad_ids(rows: Sequence[list[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) and the index of each row's last token before padding (B,)."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, last_positions(rows)


def pad_states(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Hidden states, each (T_i, C), as (B, T, C), and the index of each row's last position before padding (B,)."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), last_positions(rows)


def last_positions(rows: Sequence[Sized]) -> Tensor:
    """The index of each row's last element (B,)."""
    return torch.tensor([len(row) - 1 for row in rows])


def padded(rows: Sequence[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids (B, T), padded on the right, and their attention mask (B, T)."""
    ids, last = pad_ids(rows, pad)
    return ids, torch.arange(ids.shape[1]) <= last[:, None]
