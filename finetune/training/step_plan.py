"""Choose how to take steps: try each possible way on the first steps of the training, and continue with the fastest.

Every way computes the same numbers, so that the steps of the trial count.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.console import say
from finetune.training.captured import CapturedSteps, why_not
from finetune.training.step import EagerSteps, Steps

TRIED = 8  # steps of each way; their minimum counts, since some of them capture or compile
COMPILATION_PAYS = 300.0  # seconds of eager steps ahead, from which compiling is tried


@dataclass(frozen=True)
class Way:
    """A way to take steps. It is tried if the fastest step so far took at least `least_seconds`."""

    name: str
    make: Callable[[], Steps]
    least_seconds: float = 0.0


class ChosenSteps:
    """`TRIED` steps of each way in turn, then the fastest way. clock: the seconds after the device has finished its work."""

    def __init__(self, ways: list[Way], clock: Callable[[], float]):
        self.ways, self.clock = ways, clock
        self.best, self.chosen = float("inf"), ""
        self.fastest = self.current = ways[0].make()
        self.seconds: dict[str, list[float]] = {ways[0].name: []}
        self.left = ways[1:]

    def take(self, rows: list[int], step: int, epoch: int, rate: float) -> Tensor:
        """As in ``Steps``."""
        if self.chosen:
            return self.current.take(rows, step, epoch, rate)
        begun = self.clock()
        found = self.current.take(rows, step, epoch, rate)
        took = list(self.seconds.values())[-1]
        took.append(self.clock() - begun)
        if len(took) == TRIED:
            self._compare(min(took))
        return found

    def _compare(self, seconds: float) -> None:
        if seconds < self.best:
            self.best, self.fastest = seconds, self.current
        for place, way in enumerate(self.left):
            if self.best >= way.least_seconds:
                self.current, self.seconds[way.name] = way.make(), []
                self.left = self.left[place + 1 :]
                return
        least = {name: min(took) for name, took in self.seconds.items()}
        self.chosen, self.current = min(least, key=lambda name: least[name]), self.fastest
        said = ", ".join(f"{name} {1000 * took:.1f} ms" for name, took in least.items())
        say(f"  step: {self.chosen}; the best of {TRIED} steps each: {said}")


class CompiledSteps:
    """Eager steps whose loss and gradient are compiled by torch.compile, or not if that fails."""

    def __init__(self, eager: EagerSteps):
        self.eager = eager
        self.compiled: EagerSteps | None = copy.copy(eager)  # shares all but the loss
        self.compiled.loss_sum = torch.compile(eager.job.loss_sum)

    def take(self, rows: list[int], step: int, epoch: int, rate: float) -> Tensor:
        """As in ``Steps``."""
        if self.compiled is not None:
            try:
                return self.compiled.take(rows, step, epoch, rate)
            except RuntimeError as error:  # a missing compiler, or an operation that it does not support
                say(f"  step: eager; the step cannot be compiled: {str(error).partition(chr(10))[0]}")
                self.compiled = None
                self.eager.clear()
        return self.eager.take(rows, step, epoch, rate)


def choose_steps(eager: EagerSteps, asked: str, steps: int) -> Steps:
    """How to take `steps` steps. asked: train.step. If that is not possible, say why and take eager steps."""
    if asked == "eager":
        return eager
    if asked == "compiled":
        say("  step: compiled")
        return CompiledSteps(eager)
    refused = why_not(eager)
    if asked == "captured":
        say(f"  step: eager; it cannot be captured: {refused}" if refused else "  step: captured as CUDA graphs")
        return eager if refused else CapturedSteps(eager)
    if eager.device.type != "cuda" or steps <= 4 * TRIED or eager.accelerator.num_processes > 1:
        return eager
    if refused:
        say(f"  step: not captured: {refused}")
    ways = [Way("eager", lambda: eager)]
    ways += [] if refused else [Way("captured", lambda: CapturedSteps(eager))]
    ways += [Way("compiled", lambda: CompiledSteps(eager), least_seconds=COMPILATION_PAYS / steps)]

    def clock() -> float:
        torch.cuda.synchronize(eager.device)
        return time.monotonic()

    return ChosenSteps(ways, clock)
