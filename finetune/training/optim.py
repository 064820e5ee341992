"""AdamW with decay groups, Muon, and the learning rate as a pure function of the step."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from finetune.training.precision import has_bf16


def learning_rate(
    step: int,
    steps: int,
    peak: float,
    warmup_fraction: float,
    min_fraction: float,
    schedule: str = "cosine",
    decay_fraction: float = 0.0,
) -> float:
    """The learning rate at step `step` (from 0) of `steps`: linear warmup, then decay to the minimum by `schedule`.

    cosine: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, without restarts.
    constant: the peak, then a final decay (Hu et al. 2024, arXiv:2404.06395, section 4) with shape
    1 - sqrt(progress) (Hägele et al. 2024, arXiv:2405.18392, section 3).
    """
    warmup = math.ceil(warmup_fraction * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        decay = min(math.ceil(decay_fraction * steps), steps - warmup)
        decayed = max(step + 1 - (steps - decay), 0) / max(decay, 1)
        return peak * (1 - (1 - min_fraction) * math.sqrt(decayed))
    progress = (step - warmup) / max(steps - 1 - warmup, 1)
    low = peak * min_fraction
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def decay_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices with weight decay, and norms and biases (one-dimensional) without."""
    parameters = list(named_parameters)
    return [
        {"params": [p for _, p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for _, p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def build_optimizers(
    model: nn.Module, name: str, weight_decay: float, betas: tuple[float, float]
) -> list[torch.optim.Optimizer]:
    """Optimizers for the trainable parameters, all with the same learning rate.

    adamw: AdamW in its fused form (Loshchilov and Hutter 2019, arXiv:1711.05101).
    muon: Muon (Jordan et al. 2024) for the matrices of the blocks, each step scaled to the size of AdamW's (Liu et al.
    2025, arXiv:2502.16982, section 2.2), and AdamW for embeddings, heads, norms and biases.
    """
    trainable = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    matrices = [(key, p) for key, p in trainable if name == "muon" and p.dim() == 2 and ".blocks." in f".{key}"]
    rest = [(key, p) for key, p in trainable if key not in dict(matrices)]
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        muon = torch.optim.Muon if has_bf16() else FullPrecisionMuon
        optimizers.append(
            muon([p for _, p in matrices], lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    if rest:
        optimizers.append(torch.optim.AdamW(decay_groups(rest, weight_decay), lr=0.0, betas=betas, fused=True))
    return optimizers


class FullPrecisionMuon(torch.optim.Muon):
    """torch's Muon, with steps scaled to AdamW's, for machines that emulate bf16 matrix products.

    torch orthogonalises in bf16, which on such a CPU takes longer than the gradient of ten thousand tokens.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # the closure is unused
        """Update each matrix along the orthogonal factor of its averaged gradient."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                mean = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - momentum)
                update = orthogonalise(
                    parameter.grad.lerp(mean, momentum), group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.add_(update, alpha=-rate * 0.2 * math.sqrt(max(parameter.shape)))


def orthogonalise(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Approximate the orthogonal factor of a matrix (M, N) by Newton-Schulz iteration (Jordan et al. 2024)."""
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
