"""Masked-language-model pretraining: an encoder learns to predict masked tokens (Devlin et al. 2019)."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from finetune.comparisons.architectures.masking import Masking
from finetune.models.encoder import Encoder
from finetune.models.gpt import IGNORE
from finetune.models.heads import LossModule
from finetune.tokenizer import Tokenizer
from finetune.training.collate import padded
from finetune.training.loop import Job

MASK = "<|mask|>"


def choose_masking(tokenizer: Tokenizer, seed: int) -> tuple[Masking, int, str]:
    """The masking for this vocabulary, the number of new embedding rows that it needs, and a phrase about it.

    A vocabulary without a mask token, such as GPT-2's, gets one as its last token.
    """
    new = int(MASK not in tokenizer.special_tokens)
    mask = tokenizer.special_tokens.get(MASK, tokenizer.vocab_size)
    special = frozenset({*tokenizer.special_tokens.values(), mask})
    said = (
        f"the vocabulary has no {MASK}, so the encoder's embedding gets one row for it"
        if new
        else f"the vocabulary's {MASK} is used"
    )
    return Masking(mask, special, tokenizer.vocab_size + new, seed), new, said


def masked_batch(
    rows: Sequence[list[int]], numbers: list[int], epoch: int, masking: Masking
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and attention mask, (B, T) each. numbers: the rows' numbers."""
    drawn = [masking.apply(row, epoch, number, IGNORE) for row, number in zip(rows, numbers, strict=True)]
    inputs, attention_mask = padded([own.tolist() for own, _ in drawn], masking.mask)
    targets, _ = padded([own.tolist() for _, own in drawn], IGNORE)
    return inputs, targets, attention_mask


def build_job(
    encoder: Encoder,
    train: Sequence[list[int]],
    val: Sequence[list[int]],
    masking: Masking,
    budget: int,
    device: torch.device,
) -> Job[LossModule]:
    """The job for the training loop. budget: tokens per forward pass in validation."""

    def batch(rows: list[int], epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        return masked_batch([train[i] for i in rows], rows, epoch, masking)

    def validate(module: LossModule) -> dict[str, float]:
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
    model: LossModule, rows: Sequence[list[int]], masking: Masking, budget: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy in nats and number of predicted tokens of each batch of rows; the masks are always the same."""
    together = max(budget // max(map(len, rows)), 1)
    parts = [list(range(start, min(start + together, len(rows)))) for start in range(0, len(rows), together)]
    nats = summed_nll(model, (masked_batch([rows[i] for i in part], part, 0, masking) for part in parts), device)
    return nats, np.array([sum(masking.count(rows[i]) for i in part) for part in parts])


@torch.no_grad()
def summed_nll(model: LossModule, batches: Iterable[tuple[Tensor, ...]], device: torch.device) -> np.ndarray:
    """The summed cross-entropy of each batch."""
    return np.array([float(model(*(tensor.to(device) for tensor in batch))) for batch in batches])
