"""Estimate training time and peak memory, each with a range, from the first steps.

A dry run times a few representative steps; a real run times its own first steps. Both use the same formulas, so the
estimates can be compared with each other and with the measured cost of the run.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import psutil
import torch

from finetune.machine import latest_peak_bytes, peak_memory_bytes, reset_peak_memory
from finetune.records import Estimate
from finetune.training.batching import micro_batches

COUNTED = 3  # measured steps after the first, which is a warmup
SPREAD = 0.2  # minimum relative half-width of the time range: a shared machine varies this much
MEMORY_SPREAD = 0.25  # relative growth of the peak during a run, due to allocators
CROWDED = 0.5  # CPU share below which other programs dominate the time
FORWARD = 1 / 3  # fraction of a step spent in the forward pass; the backward pass takes about twice as long


@dataclass(frozen=True)
class Size:
    """The cost of a batch: tokens including padding, in total and in its largest forward pass."""

    tokens: int
    largest: int


@dataclass(frozen=True)
class Plan:
    """The amount of work in a training run."""

    batches: list[Size]  # of one epoch, or of the part that is trained
    steps: int
    validations: int
    validation_tokens: int  # of one validation
    gradient_bytes: int
    save_every_seconds: float
    set_up_seconds: float = 0.0  # spent before the first step
    kept_bytes: int = 0  # held by the run but not during the measured steps


@dataclass
class FirstSteps:
    """Sizes, time and memory of the first steps; later steps are ignored."""

    lengths: Sequence[int]
    budget: int  # tokens per forward pass
    device: torch.device
    sizes: list[Size] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0  # over all threads, in the same steps
    save_seconds: float = 0.0
    peak_before: int = 0
    peak: int = 0  # during the steps only
    held: int = 0  # between steps: weights, moments, data

    @contextmanager
    def step(self, rows: list[int]) -> Iterator[None]:
        """Measure the step inside the block."""
        if len(self.seconds) > COUNTED:
            yield
            return
        if not self.seconds:
            self.peak_before = peak_bytes(self.device)
            _restart_peak(self.device, self.peak_before)
        _finish(self.device)
        start, worked = time.monotonic(), time.process_time()
        yield
        _finish(self.device)
        self.seconds.append(time.monotonic() - start)
        self.cpu_seconds += time.process_time() - worked
        self.sizes.append(batch_size(rows, self.lengths, self.budget))
        self.peak, self.held = _latest_peak(self.device), _held_bytes(self.device)

    @contextmanager
    def save(self) -> Iterator[None]:
        """Measure the first checkpoint written inside the block."""
        start = time.monotonic()
        yield
        self.save_seconds = self.save_seconds or time.monotonic() - start

    def cpu_share(self) -> float:
        """CPU time as a fraction of the threads' wall time; 1 on a GPU."""
        given = sum(self.seconds) * torch.get_num_threads()
        return min(self.cpu_seconds / given, 1.0) if self.device.type == "cpu" else 1.0


def estimate(first: FirstSteps, plan: Plan) -> Estimate | None:
    """The estimated cost of training; None if no step was measured.

    Seconds: a step costs a fixed part plus a part proportional to its tokens, fitted to the measured steps. Validation
    costs as much as a forward pass over its tokens, and each checkpoint as much as the first. The range is the largest
    residual of the fit, but at least `SPREAD`; if other programs used the CPU, its lower end is the time without them.
    Bytes: the peak of the measured steps, with the token-dependent part scaled to the largest forward pass.
    """
    if not first.seconds:
        return None
    fixed, per_token, apart = fit_steps(
        [size.tokens for size in first.sizes][1:] or [first.sizes[0].tokens], first.seconds[1:] or first.seconds
    )
    tokens = sum(size.tokens for size in plan.batches) / len(plan.batches) * plan.steps
    training = fixed * plan.steps + per_token * tokens
    training += FORWARD * training / tokens * plan.validation_tokens * plan.validations
    between = math.floor(training / plan.save_every_seconds) if plan.save_every_seconds else plan.steps
    saves = min(plan.validations + between, plan.steps)
    seconds = plan.set_up_seconds + training + saves * first.save_seconds
    spread, share = min(max(apart, SPREAD), 0.9), first.cpu_share()
    least = min(1 - spread, share if share < CROWDED else 1.0)
    peak = peak_estimate(first, plan)
    return Estimate(
        round(seconds, 3),
        round(seconds * least, 3),
        round(seconds * (1 + spread), 3),
        peak,
        min(max(first.peak, first.peak_before), peak),
        int(peak * (1 + MEMORY_SPREAD)),
        len(first.seconds[1:] or first.seconds),
        round(share, 3),
    )


def crowded(found: Estimate) -> str:
    """A warning if other programs dominated the time of the measured steps, else an empty string."""
    share = found.cpu_share
    return (
        f"Other programs were using the CPU: these steps got {share:.0%} of their threads' time, so the time "
        "estimate is uncertain."
        if share < CROWDED
        else ""
    )


def fit_steps(tokens: list[int], seconds: list[float]) -> tuple[float, float, float]:
    """(fixed seconds, seconds per token, largest relative residual); the first two are not negative."""
    x, y = np.asarray(tokens, float), np.asarray(seconds, float)
    varied = x.std() > 0
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()) if varied else 0.0
    fixed = float(y.mean() - slope * x.mean())
    if not varied or fixed < 0:
        fixed, slope = 0.0, float(y.sum() / x.sum())
    elif slope < 0:
        fixed, slope = float(y.mean()), 0.0
    line = fixed + slope * x
    return fixed, slope, float((np.abs(y - line) / line).max())


def peak_estimate(first: FirstSteps, plan: Plan) -> int:
    """The estimated peak memory of training, in bytes."""
    fixed = min(first.held + plan.gradient_bytes, first.peak)
    scale = max(size.largest for size in plan.batches) / max(size.largest for size in first.sizes)
    return max(first.peak_before, int(fixed + (first.peak - fixed) * max(scale, 1.0))) + plan.kept_bytes


def batch_size(rows: list[int], lengths: Sequence[int], budget: int) -> Size:
    """The size of one batch of rows, in forward passes of at most `budget` tokens."""
    padded = [len(part) * lengths[part[-1]] for part in micro_batches(rows, lengths, budget)]
    return Size(sum(padded), max(padded))


def choose_batches(batches: list[list[int]], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """The batches of a probe: the one with the largest memory need as warmup, then the median batch of each third."""

    def size(rows: list[int]) -> tuple[int, int]:
        found = batch_size(rows, lengths, budget)
        return found.largest, found.tokens

    ordered = sorted(batches, key=lambda rows: (size(rows)[1], size(rows)[0]))
    thirds = [ordered[len(ordered) * (2 * part + 1) // (2 * COUNTED)] for part in range(COUNTED)]
    return [max(batches, key=size), *thirds]


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far: the GPU's if there is one, else the process's."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory_bytes()


def _finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _latest_peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else latest_peak_bytes()


def _restart_peak(device: torch.device, so_far: int) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak_memory(keep_bytes=so_far)


def _held_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
