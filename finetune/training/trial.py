"""A dry run of a task: a few representative training steps and a timed pass."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.recipe import Train
from finetune.training.batching import Batches
from finetune.training.job import Job
from finetune.training.loop import count_steps
from finetune.training.probe import choose_batches


@dataclass(frozen=True)
class Probe:
    """A training job reduced to a few trial batches."""

    job: Job[Any]  # contains only the rows of these batches
    batches: list[list[int]]  # row numbers within the job
    whole: Job[Any]  # the job with all rows of the run, for the plan
    set_up_seconds: float = 0.0  # before the first step, over all rows
    kept_bytes: int = 0  # held by the whole job but not by the trial


def choose(lengths: Sequence[int], settings: Train, groups: Sequence[int] = ()) -> list[list[int]]:
    """The batches of the run that a dry run measures. groups: the job's."""
    batches = Batches(lengths, settings.batch_size, settings.seed, groups).first()
    batches = batches[: count_steps(len(lengths), settings, groups)[1]]
    return choose_batches(batches, lengths, settings.tokens_per_pass)


def second_time(work: Callable[[], object]) -> float:
    """Seconds of the second of two calls; the first is a warmup."""
    work()
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
