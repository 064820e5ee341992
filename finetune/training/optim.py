"""AdamW with decay groups, and the learning rate as a pure function of the step."""

import math

import torch
from torch import nn


def learning_rate(step: int, steps: int, peak: float, warmup_fraction: float, min_fraction: float) -> float:
    """The rate of optimizer step `step` (from 0) of `steps`: linear warmup, then a cosine down to the minimum.

    Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, without restarts.
    """
    warmup = math.ceil(warmup_fraction * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - 1 - warmup, 1)
    low = peak * min_fraction
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def decay_groups(named_parameters, weight_decay: float) -> list[dict]:
    """Two groups: matrices, which decay, and norms and biases (one dimension), which do not."""
    parameters = list(named_parameters)
    return [{"params": [p for _, p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for _, p in parameters if p.dim() < 2], "weight_decay": 0.0}]


def build_adamw(model: nn.Module, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) over what may move, in its fused form."""
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return torch.optim.AdamW(decay_groups(trainable, weight_decay), lr=0.0, betas=betas, fused=True)
