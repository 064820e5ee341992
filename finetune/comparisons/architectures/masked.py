"""Masked-language-model pretraining: an encoder learns to predict masked tokens (Devlin et al. 2019)."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from finetune.models.encoder import Encoder
from finetune.models.heads import LossModule
from finetune.tasks.pretrain.masking import Masking, masked_batch
from finetune.training.job import Job


def build_job(
    encoder: Encoder,
    train: Sequence[list[int]],
    val: Sequence[list[int]],
    masking: Masking,
    budget: int,
    device: torch.device,
) -> Job[LossModule[Encoder]]:
    """The job for the training loop. budget: tokens per forward pass in validation."""

    def batch(rows: list[int], epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        return masked_batch([train[i] for i in rows], rows, epoch, masking)

    def validate(module: LossModule[Encoder]) -> dict[str, float]:
        nats, counts = measure(module, val, masking, budget, device)
        return {"log_loss": float(nats.sum() / counts.sum())}

    return Job(
        LossModule(encoder),
        [len(row) for row in train],
        [float(masking.count(row)) for row in train],
        batch,
        lambda module, tensors: module(*tensors),
        validate,
        name_row=lambda row: f"text {row}",
        validation_tokens=sum(map(len, val)),
        epochs_differ=True,
    )


def measure(
    model: LossModule[Encoder], rows: Sequence[list[int]], masking: Masking, budget: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy in nats and number of predicted tokens of each batch of rows; the masks are always the same."""
    together = max(budget // max(map(len, rows)), 1)
    parts = [list(range(start, min(start + together, len(rows)))) for start in range(0, len(rows), together)]
    nats = summed_nll(model, (masked_batch([rows[i] for i in part], part, 0, masking) for part in parts), device)
    return nats, np.array([sum(masking.count(rows[i]) for i in part) for part in parts])


@torch.no_grad()
def summed_nll(model: nn.Module, batches: Iterable[tuple[Tensor, ...]], device: torch.device) -> np.ndarray:
    """The summed cross-entropy of each batch."""
    return np.array([float(model(*(tensor.to(device) for tensor in batch))) for batch in batches])
