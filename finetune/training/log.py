"""The numbers of steps on their way from the device into ``train.jsonl``."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from finetune.files import atomic_write, open_append, writing


@dataclass(frozen=True)
class Taken:
    """An optimizer step whose numbers may still be on the device."""

    step: int  # counted from 1
    rows: list[int]
    rate: float
    numbers: Tensor  # what ``Steps.take`` returns


class Readings:
    """Reads the numbers of several steps together, so that the device does not wait for each of them."""

    def __init__(self, every_seconds: float, note: Callable[..., None]):
        self.every_seconds, self.note = every_seconds, note
        self.waiting: list[Taken] = []
        self.read_at, self.loss = time.monotonic(), math.nan

    def add(self, taken: Taken) -> None:
        """Add a step; read all that wait if it is time."""
        self.waiting.append(taken)
        if time.monotonic() - self.read_at >= self.every_seconds:
            self.read()

    def read(self) -> None:
        """Read all that wait, and pass each to `note` in order."""
        waiting, self.waiting = self.waiting, []
        if not waiting:
            return
        for taken, numbers in zip(waiting, torch.stack([own.numbers for own in waiting]).tolist(), strict=True):
            self.note(taken, *numbers)
            self.loss = numbers[0]
        self.read_at = time.monotonic()


class Log:
    """``train.jsonl``: one line per step or validation; on resume, lines after the resumed step are dropped."""

    def __init__(self, path: Path, step: int, writes: bool):
        self.path, self.writes = path, writes
        if writes:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            with atomic_write(path) as file:
                file.writelines(line + "\n" for line in lines if _step_of(line) <= step)

    def write(self, entry: dict) -> None:
        """Append a line."""
        if self.writes:
            with writing(self.path), open_append(self.path) as file:
                file.write(json.dumps(entry) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # a line cut short by a crash
        return math.inf
