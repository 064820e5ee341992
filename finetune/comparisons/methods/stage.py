"""Stage ``methods``: compare all fine-tuning methods and TF-IDF on one split, with several seeds."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.recipe import Recipe, Train
from finetune.run import Run

if TYPE_CHECKING:
    from finetune.comparisons.methods.trainings import MethodsResult

NAME = "methods"
GPT_ALONE = True  # its trainings start from a GPT-2
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
    """Raise RecipeError, before the run is created, for settings that this comparison does not support."""
    from finetune.comparisons.methods.candidates import CANDIDATES
    from finetune.config import check_names
    from finetune.errors import RecipeError

    check_names("candidate", recipe.methods.candidates, CANDIDATES, "To train it several times, set methods.seeds.")
    if recipe.classify.labels == "many":
        raise RecipeError("a comparison of methods needs one label per row", got="classify.labels=many")
    if recipe.task != "classify" or processes != 1:
        raise RecipeError(
            "a comparison of methods needs task classify and one process",
            got=f"task {recipe.task}, --processes {processes}",
        )


def plans(recipe: Recipe) -> tuple[list[tuple[str, Recipe]], list[str]]:
    """The trainings that a dry run measures, by name, and its closing notes."""
    from finetune.comparisons.methods.trainings import plans as all_plans

    note = (
        f"each of these runs {recipe.methods.seeds} times, once per seed; the other candidates, with random weights or "
        "another token for the head, are not measured"
    )
    return all_plans(recipe), [note]


def run(recipe: Recipe, run: Run) -> "MethodsResult":
    """Write comparison.json. Finished trainings of a stopped run are not repeated."""
    from finetune.comparisons.methods.trainings import compare

    return compare(recipe, run, READS)


def summary(run: Run) -> list[str]:
    """The comparison as a table for the screen."""
    from finetune.comparisons.methods.page import PAGE, screen_table
    from finetune.files import read_json

    path = run.path("comparison.json")
    return screen_table(PAGE.evaluation.from_json(read_json(path), path))


def _main(directory: str, name: str, seed: str) -> None:
    """Entry point of the process for one training."""
    from finetune.comparisons.methods.trainings import fit_here
    from finetune.training.launch import answer

    run = Run.at(Path(directory))
    answer(run, lambda: fit_here(run, name, int(seed), READS))


if __name__ == "__main__":
    _main(*sys.argv[1:])
