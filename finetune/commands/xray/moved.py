"""Which weights fine-tuning moved: the norm of each tensor's change, and the singular values of a low-rank one."""

from dataclasses import dataclass

import torch
from torch import nn

from finetune.records import Record

MOST_VALUES = 16  # singular values of a matrix that are shown


@dataclass(frozen=True)
class Moved(Record):
    """A tensor's change. share: its Frobenius norm relative to the tensor's. singular: its largest singular values."""

    name: str
    norm: float
    share: float
    singular: list[float] | None


@dataclass(frozen=True)
class Movement(Record):
    """The changes of all tensors that both models have in the same shape, and the names of the others."""

    tensors: list[Moved]
    left_out: list[str]


@torch.inference_mode()
def compare(before: nn.Module, after: nn.Module, rank: int | None) -> Movement:
    """The change of every tensor. rank: that of LoRA's updates, to compute their singular values; None: compute none."""
    old, new = before.state_dict(), after.state_dict()
    both = [name for name in new if name in old and old[name].shape == new[name].shape]
    tensors = []
    for name in both:
        change = new[name].double() - old[name].double()
        norm, size = float(change.norm()), float(old[name].double().norm())
        singular = None
        if rank is not None and change.ndim == 2 and norm > 0:
            values = torch.linalg.svdvals(change)
            singular = [float(f"{value:.6g}") for value in values[: min(rank, MOST_VALUES)].tolist()]
        tensors.append(Moved(name, norm, norm / size if size else 0.0, singular))
    return Movement(tensors, sorted({*old, *new} - set(both)))
