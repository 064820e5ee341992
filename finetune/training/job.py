"""What a task passes to the training loop: its model, and how rows become batches and a loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import numpy as np
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Problem:
    """The training rows of a classifier whose model is frozen, and the head to solve for."""

    head: nn.Linear
    states: np.ndarray  # (n, C), what the head reads
    targets: np.ndarray  # class numbers (n,); under many labels, whether a row has each (n, K)
    weights: np.ndarray  # of each row (n,), or of each label of each row (n, K)


class Computed(Sequence[N]):
    """A sequence of `count` numbers, each computed on access: for more rows than a list should hold."""

    def __init__(self, count: int, value: Callable[[int], N]):
        self.rows = range(count)
        self.value: Callable[[int], N] = value

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> N: ...

    @overload
    def __getitem__(self, at: slice) -> list[N]: ...

    def __getitem__(self, at: Any) -> Any:
        found = self.rows[at]
        return self.value(found) if isinstance(found, int) else list(map(self.value, found))


@dataclass(frozen=True)
class Job(Generic[M]):
    """What a task provides to the loop. Row numbers index the training rows from 0."""

    model: M
    lengths: Sequence[int]  # tokens of each row
    weights: Sequence[float]  # each row's share of the denominator of the mean loss
    batch: Callable[..., tuple[Tensor, ...]]  # rows -> tensors on the CPU
    loss_sum: Callable[[nn.Module, tuple[Tensor, ...]], Tensor]  # the weighted sum over a batch, a scalar
    validate: Callable[[M], dict[str, float]]  # must contain log_loss and the metric
    name_row: Callable[[int], str]  # a row's name in messages
    validation_tokens: int = 0  # per validation, to estimate its time
    epochs_differ: bool = False  # batch also takes the epoch: batch(rows, epoch)
    pads: tuple[int | None, ...] | None = None  # of each tensor of a batch, see DeviceRows; None: collate on the CPU
    read_ahead: Callable[[list[int]], None] | None = None  # called before each step with rows that will be needed soon
    groups: Sequence[int] = ()  # sizes of groups of consecutive rows, see Batches
    problem: Problem | None = None  # for the method features, which solves it instead of taking steps
    advice: str = ""  # printed once if the first steps predict a long training
