"""What a task gives to training: its model, and how rows become batches and a loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Problem:
    """The training rows of a classifier whose model is frozen, and the head to solve for."""

    head: nn.Linear
    states: np.ndarray  # (n, C), what the head reads
    targets: np.ndarray  # class numbers (n,); under many labels, whether a row has each (n, K)
    weights: np.ndarray  # (n,), or of each row's labels (n, K)


@dataclass(frozen=True)
class Job(Generic[M]):
    """What a task provides to the loop. Row numbers index the training rows from 0."""

    model: M
    lengths: list[int]  # tokens of each row
    weights: list[float]  # each row's share of the denominator of the mean loss
    batch: Callable[..., tuple[Tensor, ...]]  # rows -> tensors on the CPU
    loss_sum: Callable[[nn.Module, tuple[Tensor, ...]], Tensor]  # the weighted sum over a batch, a scalar
    validate: Callable[[M], dict[str, float]]  # must contain log_loss and the metric
    name_row: Callable[[int], str]  # a row's name in messages
    validation_tokens: int = 0  # per validation, to estimate its time
    epochs_differ: bool = False  # batch also takes the epoch: batch(rows, epoch)
    pads: tuple[int | None, ...] | None = (
        None  # of each tensor of a batch, see DeviceRows; None: batches are made on the CPU
    )
    read_ahead: Callable[[list[int]], None] | None = None  # called with the rows of the next batch, before each step
    problem: Problem | None = None  # what method features solves instead of taking steps
    advice: str = ""  # said once where the first steps promise a long training
