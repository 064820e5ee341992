"""Work without gradients, divided among the processes that train together.

Each process computes every n-th batch and all exchange their results, so that every process has what one alone would
have computed: the batches are the same, and no row is left out or counted twice.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate import PartialState

from finetune.training.precision import device_type
from finetune.training.ranks import processes

T = TypeVar("T")
B = TypeVar("B")

_together = False


@contextmanager
def together() -> Iterator[None]:
    """All processes run the block at the same time, and ``share`` divides its work among them."""
    global _together
    if processes() == 1:
        yield
        return
    PartialState(cpu=device_type() == "cpu")  # connects the processes, as Accelerator does later
    _together = True
    try:
        yield
    finally:
        _together = False


def share(batches: Sequence[B], compute: Callable[[B], T]) -> list[T]:
    """The result of `compute` for each batch, in order; it must be the same on every process, and can be pickled."""
    if not _together:
        return [compute(batch) for batch in batches]
    world, rank = dist.get_world_size(), dist.get_rank()
    mine = [compute(batch) for batch in batches[rank::world]]
    if batches and len(mine) * world < len(batches):
        compute(batches[0])  # where weights are divided, each forward pass gathers them: all must run equally many
    everyone: list[Any] = [None] * world
    dist.all_gather_object(everyone, mine)
    return [everyone[number % world][number // world] for number in range(len(batches))]
