"""Frozen lower blocks are run once per text; training starts from what they gave.

Causal attention makes a token's hidden state independent of what follows it, so the states of a text computed in any
batch are those of the text alone, and no pad has to be stored.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from finetune.console import progress
from finetune.training.batching import micro_batches
from finetune.training.collate import pad_ids


def build_prefix_cache(
    lower: Callable[[Tensor], Tensor],
    rows: Sequence[list[int]],
    token_budget: int,
    device: torch.device,
    last_only: bool = False,
) -> list[Tensor]:
    """The states below the first trainable block: for each row of T_i ids a tensor (T_i, C) on the CPU.

    lower: (B, T) ids -> (B, T, C); call inside the autocast that training uses.
    last_only: keep the last position alone, (1, C), where no block is left to look at the others.
    """
    lengths = [len(row) for row in rows]
    states: list[Tensor] = [torch.empty(0)] * len(rows)
    with progress("frozen blocks", sum(lengths), unit="tokens") as advance, torch.no_grad():
        for batch in micro_batches(list(range(len(rows))), lengths, token_budget):
            ids, last = pad_ids([rows[i] for i in batch])
            for i, end, state in zip(batch, last, lower(ids.to(device)).float().cpu(), strict=True):
                states[i] = state[end if last_only else 0 : end + 1].clone()
            advance(sum(lengths[i] for i in batch))
    return states


def cache_bytes(rows: Sequence[list[int]], width: int, last_only: bool = False) -> int:
    """Memory of the cache, in bytes (fp32)."""
    return 4 * width * (len(rows) if last_only else sum(map(len, rows)))
