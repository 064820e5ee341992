"""Stage ``methods``: every way to adapt the weights, under several seeds, on one split, beside TF-IDF."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.recipe import Recipe, Train
from finetune.run import Run

if TYPE_CHECKING:
    from finetune.comparisons.methods.trainings import MethodsResult

NAME = "methods"
FIXED = ("method", "last_blocks")  # each candidate has its own
READS = (
    "methods",
    "task",
    "weights",
    "evaluate.resamples",
    "split.seed",
    "evaluate.positive",
    *(f"train.{name}" for name in Train.model_fields if name not in FIXED),
)
OUTPUTS = ("comparison.json", "comparison/*/result.json")


def check(recipe: Recipe, processes: int = 1) -> None:
    """Raise RecipeError, before there is a run, for what this comparison cannot do."""
    from finetune.comparisons.methods.candidates import CANDIDATES
    from finetune.config import check_names
    from finetune.errors import RecipeError

    check_names("candidate", recipe.methods.candidates, CANDIDATES, "methods.seeds trains it again.")
    if recipe.task != "classify" or processes != 1:
        raise RecipeError(
            "a comparison of methods trains classifiers in one process",
            got=f"task {recipe.task}, --processes {processes}",
        )


def plans(recipe: Recipe) -> tuple[list[tuple[str, Recipe]], list[str]]:
    """What a dry run tries, each with its name, and what it says at the end."""
    from finetune.comparisons.methods.trainings import plans as all_plans

    note = (
        f"each of these {recipe.methods.seeds} times, by seed; the other candidates, which start at random or read "
        "their texts otherwise, are not tried"
    )
    return all_plans(recipe), [note]


def run(recipe: Recipe, run: Run) -> "MethodsResult":
    """Write comparison.json. What is trained already, of a run that was stopped, is not trained again."""
    from finetune.comparisons.methods.trainings import compare

    return compare(recipe, run, READS)


def summary(run: Run) -> list[str]:
    """The comparison as a table for the screen."""
    from finetune.comparisons.methods.page import PAGE, screen_table
    from finetune.files import read_json

    path = run.path("comparison.json")
    return screen_table(PAGE.evaluation.from_json(read_json(path), path))


def _main(directory: str, name: str, seed: str) -> None:
    """What the process of one training does."""
    from finetune.comparisons.methods.trainings import fit_here
    from finetune.training.launch import answer

    run = Run.at(Path(directory))
    answer(run, lambda: fit_here(run, name, int(seed), READS))


if __name__ == "__main__":
    _main(*sys.argv[1:])
