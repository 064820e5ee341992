"""The only thread that uses the model. Requests that arrive together run as one batch."""

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from finetune.errors import FinetuneError
from finetune.serve.problems import Problem

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Work(Generic[T, R]):
    """The model's work on items: computes the results of a batch, in the order of its items."""

    run: Callable[[list[T]], list[R]]
    key: Callable[[T], Hashable] = lambda item: 0  # items with equal keys can share a batch
    weight: Callable[[T], int] = lambda item: 1
    most: int = 1  # maximum weight of a batch of several items


@dataclass(eq=False)
class _Waiting:
    work: Work[Any, Any]
    item: Any
    future: Future[Any] = field(default_factory=Future)


class Worker:
    """Runs one batch at a time. Background items wait until there are no others."""

    def __init__(self, waiting: int):
        self.waiting = waiting
        self.stopping = threading.Event()
        self._queue: deque[_Waiting] = deque()
        self._background: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="model", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T, R], item: T, background: bool = False) -> Future[R]:
        """Queue an item; if its future is cancelled before it runs, it never runs.

        Raises Problem if too many items are waiting, or the server is closing.
        """
        entry = _Waiting(work, item)
        with self._changed:
            if self.stopping.is_set():
                raise Problem(503, "the server is closing")
            if not background and len(self._queue) >= self.waiting:
                self._queue = deque(other for other in self._queue if not other.future.cancelled())
            if not background and len(self._queue) >= self.waiting:
                raise Problem(503, "too many requests are waiting", got=f"{self.waiting:,}", do="Try again later.")
            (self._background if background else self._queue).append(entry)
            self._changed.notify()
        return entry.future

    def close(self) -> None:
        """Fail the waiting items. A running batch can check ``stopping``."""
        with self._changed:
            self.stopping.set()
            left = [*self._queue, *self._background]
            self._queue.clear()
            self._background.clear()
            self._changed.notify()
        for entry in left:
            if entry.future.set_running_or_notify_cancel():
                entry.future.set_exception(Problem(503, "the server is closing"))

    def join(self, seconds: float) -> bool:
        """Wait for the running batch, after ``close``. Returns whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while batch := self._take():
            ready = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
            if ready:
                _run(ready)

    def _take(self) -> list[_Waiting]:
        """The oldest item and later ones that can share its batch; nothing after ``close``."""
        with self._changed:
            while not (self._queue or self._background or self.stopping.is_set()):
                self._changed.wait()
            if self.stopping.is_set():
                return []
            queue = self._queue or self._background
            batch = [queue.popleft()]
            work, key = batch[0].work, batch[0].work.key(batch[0].item)
            room = work.most - work.weight(batch[0].item)
            for entry in list(queue):
                if entry.work is work and work.key(entry.item) == key and (weight := work.weight(entry.item)) <= room:
                    batch.append(entry)
                    queue.remove(entry)
                    room -= weight
            return batch


def _run(batch: list[_Waiting]) -> None:
    """Run a batch; if it fails, run each item alone, so that no request fails because of another."""
    try:
        results = batch[0].work.run([entry.item for entry in batch])
    except Exception as error:  # reported through the future
        if len(batch) > 1 and isinstance(error, FinetuneError):
            for entry in batch:
                _run([entry])
            return
        for entry in batch:
            entry.future.set_exception(error)
        return
    for entry, result in zip(batch, results, strict=True):
        entry.future.set_result(result)
