"""Run frozen lower blocks once per text and train on their cached output.

No token attends to padding: a decoder's attention is causal, and an encoder masks padding. The states of a text are
therefore the same in any batch, and padding is not stored.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from finetune.console import progress
from finetune.training.batching import inference_batches
from finetune.training.collate import pad_ids
from finetune.training.sharing import share


def build_prefix_cache(
    lower: Callable[[Tensor, Tensor], Tensor],
    rows: Sequence[list[int]],
    token_budget: int,
    device: torch.device,
    last_only: bool = False,
) -> list[Tensor]:
    """The states below the first trainable block: for each row of T_i ids a tensor (T_i, C) on the CPU.

    lower: (B, T) ids and (B,) each row's last position -> (B, T, C); call it inside training's autocast.
    last_only: keep only the last position, (1, C), if no remaining block attends to the others.
    """
    lengths = [len(row) for row in rows]
    states: list[Tensor] = [torch.empty(0)] * len(rows)
    batches = inference_batches(lengths, token_budget)
    with progress("frozen blocks", sum(lengths), unit="tokens") as advance, torch.no_grad():

        def run_lower(batch: list[int]) -> list[Tensor]:
            ids, last = pad_ids([rows[i] for i in batch])
            found = lower(ids.to(device), last.to(device)).float().cpu()
            return [state[end if last_only else 0 : end + 1].clone() for end, state in zip(last, found, strict=True)]

        shared = share(batches, run_lower, lambda batch: advance(sum(lengths[i] for i in batch)))
    for batch, found in zip(batches, shared, strict=True):
        for i, state in zip(batch, found, strict=True):
            states[i] = state
    return states


def cache_bytes(rows: Sequence[list[int]], width: int, last_only: bool = False) -> int:
    """Memory used by the cache, in bytes (fp32)."""
    return 4 * width * (len(rows) if last_only else sum(map(len, rows)))
