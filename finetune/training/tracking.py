"""Send the curves of a training to an experiment tracker, through accelerate. Only numbers and the run's name are sent."""

import math
import shutil
from importlib.util import find_spec
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from finetune.errors import RecipeError
from finetune.recipe import Train

PROJECT = "finetune"
FOLDER = "tracker"  # beside train.jsonl, for trackers that write files


def check_tracker(settings: Train) -> None:
    """Raise RecipeError if the tracker's package is not installed."""
    name = settings.tracker
    if name != "off" and find_spec(name) is None:
        raise RecipeError(
            f"train.tracker={name} needs a package that is not installed",
            got=f"no {name}",
            known="off, tensorboard, trackio",
            do=f"Install it with: pip install 'gpt2-finetune[{name}]'",
        )


class Tracking:
    """Sends each line of the training log to the tracker that is set, if any."""

    def __init__(self, accelerator: Accelerator, settings: Train, directory: Path, step: int):
        self._tracker: GeneralTracker | None = None
        if settings.tracker == "off" or not accelerator.is_main_process:
            return
        folder = directory / FOLDER
        if step == 0:
            shutil.rmtree(folder, ignore_errors=True)
        kind = LOGGER_TYPE_TO_CLASS[settings.tracker]
        if kind.requires_logging_directory:
            self._tracker = kind(PROJECT, str(folder))
        else:
            self._tracker = kind(PROJECT, name=directory.resolve().name)
        self._tracker.start()
        self._tracker.store_init_configuration(numbers_of(settings.model_dump()))

    def write(self, entry: dict) -> None:
        """Send the numbers of a step or a validation."""
        if self._tracker is not None:
            numbers = numbers_of({key: value for key, value in entry.items() if key != "step"})
            self._tracker.log(numbers, step=entry["step"])

    def close(self) -> None:
        """Flush and close the tracker."""
        if self._tracker is not None:
            self._tracker.finish()


def numbers_of(values: dict) -> dict[str, float]:
    """The finite numbers and booleans in a dict; the keys of a nested dict become ``outer/inner``."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= {f"{key}/{inner}": number for inner, number in numbers_of(value).items()}
        elif isinstance(value, (int, float)) and math.isfinite(value):
            found[key] = value
    return found
