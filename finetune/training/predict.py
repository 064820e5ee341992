"""A classifier's forward pass over many texts, without gradients."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from finetune.console import progress, unseen
from finetune.models.heads import Classifier
from finetune.training.batching import inference_batches
from finetune.training.collate import pad_ids, pad_states
from finetune.training.sharing import share

PREDICT_TOKENS = 8192  # per forward pass without gradients


def predict_logits(
    model: Classifier,
    ids: Sequence[list[int]],
    states: list[Tensor] | None = None,
    first_block: int = 0,
    budget: int = PREDICT_TOKENS,
    show: str = "",
) -> np.ndarray:
    """Logits (n, K) in row order, independent of batching; fp32 unless under autocast.

    states, first_block: the output of the blocks below first_block for each text, from which the model starts.
    """
    return _for_each_text(model, model, model.head.out_features, ids, states, first_block, budget, show)


def predict_states(
    model: Classifier,
    ids: Sequence[list[int]],
    states: list[Tensor] | None = None,
    first_block: int = 0,
    budget: int = PREDICT_TOKENS,
) -> np.ndarray:
    """The hidden states (n, C) that the head reads, one per text. Otherwise as ``predict_logits``."""
    return _for_each_text(model, model.state, model.head.in_features, ids, states, first_block, budget)


def _for_each_text(
    model: Classifier,
    compute: Callable[[Tensor, Tensor, int], Tensor],
    width: int,
    ids: Sequence[list[int]],
    states: list[Tensor] | None,
    first_block: int,
    budget: int,
    show: str = "",
) -> np.ndarray:
    device = model.head.weight.device
    found = np.zeros((len(ids), width), dtype=np.float32)
    bar = progress(show, len(ids), unit="texts") if show else nullcontext(unseen)
    batches = inference_batches([len(row) for row in ids], budget)
    with torch.inference_mode(), bar as advance:

        def compute_rows(rows: list[int]) -> np.ndarray:
            inputs, last = pad_states([states[i] for i in rows]) if states else pad_ids([ids[i] for i in rows])
            return compute(inputs.to(device), last.to(device), first_block).float().cpu().numpy()

        shared = share(batches, compute_rows, lambda rows: advance(len(rows)))
    for rows, computed in zip(batches, shared, strict=True):
        found[rows] = computed
    return found
