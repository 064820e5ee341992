"""What a dry run tries of a task: a few steps that stand for the training, and a pass that is timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune.recipe import Train
from finetune.training.batching import epoch_batches
from finetune.training.loop import Job, count_steps
from finetune.training.probe import choose_batches


@dataclass(frozen=True)
class Probe:
    """A training cut down to the batches that are tried."""

    job: Job[Any]  # of these batches' rows
    batches: list[list[int]]  # in the job's own numbers
    whole: Job[Any]  # the same with all rows of the run, for the plan
    set_up_seconds: float = 0.0  # before the first step, over all rows
    kept_bytes: int = 0  # that the whole job holds and the cut one does not


def choose(lengths: list[int], settings: Train) -> list[list[int]]:
    """The batches of the run that are tried."""
    batches = epoch_batches(lengths, settings.batch_size, settings.seed, 0)[: count_steps(len(lengths), settings)[1]]
    return choose_batches(batches, lengths, settings.micro_batch_tokens)


def second_time(work: Callable[[], object]) -> float:
    """Seconds of doing this again: the first time warms up."""
    work()
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
