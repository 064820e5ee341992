"""Work without gradients, divided among the processes of one command.

Each process computes every n-th batch and all exchange their results, so that every process has what one alone would
have computed: the batches are the same, and no row is left out or counted twice.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from finetune.errors import TrainingError
from finetune.training.ranks import call_others, processes

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741  # an item
B = TypeVar("B")


@dataclass(frozen=True)
class Group:
    """The processes among which ``share`` divides work, and which of them this is.

    evenly: each must compute equally many batches, as where weights are divided and every forward pass gathers them.
    """

    size: int = 1
    rank: int = 0
    evenly: bool = False


ALONE = Group()
_group: ContextVar[Group] = ContextVar("group", default=ALONE)  # of this thread; any other computes alone


@contextmanager
def together(evenly: bool = False) -> Iterator[None]:
    """All processes run the block at the same time, and ``share`` divides its work among them.

    evenly: as in ``Group``. Raises TrainingError where another of the processes has ended.
    """
    if processes() == 1:
        yield
        return
    from accelerate import PartialState

    from finetune.training.precision import device_type

    try:
        connected = PartialState(cpu=device_type() == "cpu")  # connects the processes, as Accelerator does later
        with _sharing(Group(connected.num_processes, connected.process_index, evenly)):
            yield
    except RuntimeError as error:
        if not re.search("gloo|nccl|connection", str(error), re.IGNORECASE):
            raise
        raise TrainingError(
            "another training process ended",
            got=str(error).strip().splitlines()[-1][:200],
            do="Run the same command to resume from what was saved, with any number of processes.",
        ) from error


@contextmanager
def _sharing(group: Group) -> Iterator[None]:
    before = _group.get()
    _group.set(group)
    try:
        yield
    finally:
        _group.set(before)


def share(batches: Sequence[B], compute: Callable[[B], T], done: Callable[[B], object] = lambda batch: None) -> list[T]:
    """The result of `compute` for each batch, in order; it must be the same on every process, and can be pickled.

    done: called for each batch that is done, here or by another process.
    """
    group, mine = _group.get(), []
    with _sharing(ALONE):  # what `compute` shares, it computes alone
        for start in range(0, len(batches), group.size):
            turn = batches[start : start + group.size]
            if group.rank < len(turn):
                mine.append(compute(turn[group.rank]))
            elif group.evenly:
                compute(turn[0])
            for batch in turn:
                done(batch)
    if group.size == 1:
        return mine
    import torch.distributed as dist

    everyone: list[Any] = [None] * group.size
    dist.all_gather_object(everyone, mine)
    return [everyone[number % group.size][number // group.size] for number in range(len(batches))]


def lead(
    work: Sequence[str], items: Iterable[I], batch_of: Callable[[I], B], compute: Callable[[B], T]
) -> Iterator[tuple[I, T]]:
    """Each item with the result of `compute` for its batch, in order, where only the first process has the items.

    work: what the others are called with, to run ``follow`` with the same `compute`; nothing: none is called.
    """
    if processes() == 1 or not work:
        for item in items:
            yield item, compute(batch_of(item))
        return
    call_others(*work)
    with together():
        for group in chunks(items, processes()):
            yield from zip(group, _share_of_first([batch_of(item) for item in group], compute), strict=True)
        _share_of_first(None, compute)


def follow(compute: Callable[[Any], Any]) -> None:
    """Compute this process's part of what the first one ``lead``s."""
    with together():
        while _share_of_first(None, compute):
            pass


def chunks(items: Iterable[I], size: int) -> Iterator[list[I]]:
    """The items, so many at a time."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _share_of_first(batches: Sequence[B] | None, compute: Callable[[B], T]) -> list[T]:
    """The results for the first process's batches, which only it has to give; none to end."""
    import torch.distributed as dist

    sent: list[Any] = [batches]
    dist.broadcast_object_list(sent, src=0)
    return share(sent[0] or [], compute)
