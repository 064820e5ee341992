"""Stage ``architectures``: encoder-only, decoder-only and encoder-decoder of equal size on the same tasks."""

from typing import TYPE_CHECKING

from finetune.recipe import Recipe, Train
from finetune.run import Run

if TYPE_CHECKING:
    from finetune.comparisons.architectures.trainings import ArchitecturesResult

NAME = "architectures"
GPT_ALONE = True  # its trainings start from a GPT-2
# All weights are trained, for the number of steps in the comparison's settings.
FIXED = ("method", "last_blocks", "class_weights", "epochs", "max_steps", "evaluations_per_epoch", "patience")
READS = (
    "architectures",
    "task",
    "weights",
    "split.seed",
    "evaluate.resamples",
    "evaluate.positive",
    *(f"train.{name}" for name in Train.model_fields if name not in FIXED and not name.startswith("lora_")),
)
OUTPUTS = ("comparison.json", "trainings.jsonl", "training/*")


def check(recipe: Recipe, processes: int = 1) -> None:
    """Raise RecipeError, before the run is created, for settings that this comparison does not support."""
    from finetune.comparisons.architectures.trainings import check as check_trainings

    check_trainings(recipe, processes)


def run(recipe: Recipe, run: Run) -> "ArchitecturesResult":
    """Write comparison.json. Finished trainings of a stopped run are not repeated."""
    from finetune.comparisons.architectures.trainings import train_all

    return train_all(recipe, run, READS)


def summary(run: Run) -> list[str]:
    """The comparison as a table for the screen."""
    from finetune.comparisons.architectures.page import PAGE, screen_table
    from finetune.files import read_json

    path = run.path("comparison.json")
    return screen_table(PAGE.evaluation.from_json(read_json(path), path))
