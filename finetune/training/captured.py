"""The whole optimizer step as one CUDA graph for each padded length: the CPU launches one graph, not a thousand kernels.

A graph repeats what was recorded, on the same memory: row numbers, the scale of the loss and the learning rate are
tensors that are filled before each replay. It runs the code of ``EagerSteps``, so it gives the same numbers. All graphs
share one memory pool, because only one runs at a time. Benchmark: benchmarks/gpu.py; switch: train.step = eager.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from finetune.console import say
from finetune.training.batching import epoch_batches, micro_batches
from finetune.training.step import EagerSteps, can_skip, to_device

MOST_GRAPHS = 16  # a capture takes a fraction of a second

Replay = Callable[[], Tensor]  # runs what was recorded, and returns its result


class CapturedSteps:
    """Steps replayed from CUDA graphs; a step without a graph, such as the smaller one at an epoch's end, runs eagerly.

    record: turns a step into a function that replays it; by default with a CUDA graph.
    """

    def __init__(self, eager: EagerSteps, record: Callable[[Callable[[], None], Replay], Replay] | None = None):
        self.eager, self.record = eager, record or GraphRecorder()
        self.replays: dict[tuple[int, ...], Replay] = {}
        size = eager.settings.batch_size
        self.rows = torch.zeros(size, dtype=torch.long, device=eager.device)
        self.scale = torch.zeros((), device=eager.device)
        self.failed = False  # PyTorch refused a capture

    def take(self, rows: list[int], step: int, epoch: int, rate: float) -> Tensor:
        """As in ``Steps``."""
        eager, job = self.eager, self.eager.job
        assert eager.store is not None, "why_not refuses a job whose rows are not on the device"
        shape = eager.padded(rows)
        one_pass = len(micro_batches(rows, job.lengths, eager.settings.tokens_per_pass)) == 1
        known = shape in self.replays or len(self.replays) < MOST_GRAPHS
        begun = all(optimizer.state for optimizer in eager.optimizers)  # a replay would reset moments made in it
        if self.failed or len(rows) != len(self.rows) or not (one_pass and known and begun):
            return eager.take(rows, step, epoch, rate)
        ordered = sorted(rows, key=lambda row: (job.lengths[row], row))
        self.rows.copy_(to_device(torch.tensor(ordered), eager.device))
        self.scale.fill_(1.0 / sum(job.weights[row] for row in rows))
        eager.set_rate(rate)
        eager.start()
        if shape not in self.replays:
            try:
                self.replays[shape] = self._capture(shape)
            except RuntimeError as error:
                say(f"  step: eager; the step cannot be captured: {str(error).partition(chr(10))[0]}")
                self.failed = True
                return eager.take(rows, step, epoch, rate)
        return self.replays[shape]().clone()  # the next replay overwrites it

    def _capture(self, shape: tuple[int, ...]) -> Replay:
        eager = self.eager
        assert eager.store is not None
        store = eager.store

        def gradient() -> Tensor:
            return eager.backward(store.take(self.rows, shape), self.scale)

        def warm_up() -> None:
            gradient()
            eager.clear()  # so that the graph allocates its own gradients

        def whole() -> Tensor:
            with capturable(eager.optimizers):
                return eager.update(gradient())

        try:
            return self.record(warm_up, whole)
        finally:
            eager.clear()


@contextmanager
def capturable(optimizers: list[torch.optim.Optimizer]) -> Iterator[None]:
    """Mark these optimizers as capturable within the block; outside of a capture that would warn."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False


def why_not(eager: EagerSteps) -> str:
    """Why these steps cannot be captured; empty if they can be."""
    job, settings = eager.job, eager.settings
    if eager.device.type != "cuda":
        return "a CUDA graph needs an NVIDIA GPU"
    if eager.accelerator.num_processes > 1:
        return "several processes train together"
    if eager.random:
        return "dropout draws new random numbers in each step"
    if not all(map(can_skip, eager.optimizers)):
        return f"{settings.optimizer} reads its learning rate on the CPU"
    if eager.store is None:
        return "the rows are not on the GPU: they change, are read from a file, or are too many"
    batches = epoch_batches(job.lengths, settings.batch_size, settings.seed, 0)
    alone = sum(len(micro_batches(rows, job.lengths, settings.tokens_per_pass)) == 1 for rows in batches)
    if 2 * alone < len(batches):
        return "most steps need several micro-batches; raise train.micro_batch_tokens"
    return ""


class GraphRecorder:
    """Records work as CUDA graphs in one memory pool."""

    def __init__(self) -> None:
        self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def __call__(self, warm_up: Callable[[], None], work: Callable[[], Tensor]) -> Replay:
        """Run `warm_up` once, so that libraries allocate what they need, then record `work` without running it."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            warm_up()
        torch.cuda.current_stream().wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            found = work()

        def replay() -> Tensor:
            graph.replay()
            return found

        return replay
