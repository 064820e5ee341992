"""How many tokens fit into memory in one forward and backward pass, for ``train.micro_batch_tokens = auto``."""

from collections.abc import Callable
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor

from finetune.machine import latest_peak_bytes, peak_memory_bytes, release_memory, reset_peak_memory
from finetune.recipe import Train
from finetune.training.job import Job
from finetune.training.precision import device_type
from finetune.training.step import EagerSteps

SHARE_OF_FREE = 0.5  # fraction of the free CPU memory for training; other programs need some too
MEASURED_TOKENS = 1024  # of the measured pass on a CPU
MOMENTS = 2  # values that AdamW stores per trained parameter, from the first update on


def tokens_that_fit(job: Job[Any], settings: Train, device: torch.device) -> int:
    """Tokens in the largest pass that fits: a whole batch of the job's longest row, or a half, a quarter, ... of it.

    On a GPU each of these is tried, beside memory reserved for the optimizer's moments, until one fits. On a CPU, where
    the system kills a process that takes too much, two small passes are measured instead. No weight changes.
    """
    accelerator = Accelerator(cpu=device_type() == "cpu", mixed_precision="no")
    job.model.to(device)
    eager = EagerSteps(accelerator, accelerator.prepare(job.model), [], job, settings)
    longest = max(range(job.groups[0] if job.groups else len(job.lengths)), key=job.lengths.__getitem__)
    trained = [p for p in job.model.parameters() if p.requires_grad]
    moments = MOMENTS * sum(p.numel() * p.element_size() for p in trained)

    def run(rows: int) -> None:
        try:
            eager.start()
            eager.backward(eager.batch([longest] * rows, 0), 1.0)
        finally:
            job.model.zero_grad(set_to_none=True)

    def fits_on_gpu(rows: int) -> bool:
        room: Tensor | None = None
        try:
            room = torch.empty(moments, dtype=torch.uint8, device=device)
            run(rows)
        except torch.OutOfMemoryError:
            return False
        finally:
            del room  # frees the reserved memory
            torch.cuda.empty_cache()
        return True

    if device.type == "cuda":
        rows = halve_until(settings.batch_size, fits_on_gpu)
    else:
        run(1)  # a warmup: the first pass allocates more
        more = max(min(settings.batch_size, MEASURED_TOKENS // job.lengths[longest]), 2)
        one, several = _growth(lambda: run(1)), _growth(lambda: run(more))
        free = SHARE_OF_FREE * psutil.virtual_memory().available - moments
        rows = halve_until(
            settings.batch_size, lambda rows: one + (rows - 1) * max(several - one, 0) / (more - 1) <= free
        )
    return rows * job.lengths[longest]


def halve_until(rows: int, fits: Callable[[int], bool]) -> int:
    """The largest of `rows`, `rows` / 2, ... that fits. One row is assumed to fit."""
    while rows > 1 and not fits(rows):
        rows //= 2
    return rows


def _growth(work: Callable[[], None]) -> int:
    """Bytes by which the process grows during `work`."""
    before = peak_memory_bytes()
    release_memory()
    reset_peak_memory(keep_bytes=before)
    held = psutil.Process().memory_info().rss
    work()
    return max(latest_peak_bytes() - held, 0)
