"""Stage ``folds``: train K classifiers, each tested on the rows left out of its training."""

from typing import TYPE_CHECKING

from finetune.recipe import Recipe, Train
from finetune.run import Run

if TYPE_CHECKING:
    from finetune.comparisons.folds.trainings import FoldsResult

NAME = "folds"
READS = (
    "folds",
    "task",
    "weights",
    "columns",
    "encoding",
    "split.val_fraction",
    "split.seed",
    "evaluate.positive",
    "evaluate.aim",
    "evaluate.costs",
    *(f"train.{name}" for name in Train.model_fields),
)
OUTPUTS = ("comparison.json", "predictions.csv", "folds/*/result.json")


def check(recipe: Recipe, processes: int = 1) -> None:
    """Raise RecipeError, before the run is created, for settings that a cross-validation does not support."""
    from finetune.errors import RecipeError

    if recipe.task != "classify" or processes != 1:
        raise RecipeError(
            "a cross-validation needs task classify and one process", got=f"task {recipe.task}, --processes {processes}"
        )
    if recipe.classify.labels == "many":
        raise RecipeError("a cross-validation needs one label per row", got="classify.labels=many")
    if (recipe.evaluate.aim or "").startswith("abstain"):
        raise RecipeError(
            f"evaluate.aim={recipe.evaluate.aim} cannot be combined with folds: a cross-validation predicts every row",
            do="Leave it out; the report of a single training shows accuracy over coverage.",
        )
    given = {"split.protocol": recipe.split.protocol != "grouped", "columns.split": recipe.columns.split}
    given |= {"validation": recipe.validation, "test": recipe.test, "classify.fixes": recipe.classify.fixes}
    for name in (name for name, value in given.items() if value):
        raise RecipeError(
            f"{name} cannot be combined with folds: a cross-validation splits all rows of one table itself",
            do="Leave it out; rows of a group stay in one fold with --group COL.",
        )


def plans(recipe: Recipe) -> tuple[list[tuple[str, Recipe]], list[str]]:
    """The training that a dry run measures, and its closing note."""
    return [("one fold", recipe)], [f"this training runs {recipe.folds.count} times, once per fold"]


def run(recipe: Recipe, run: Run) -> "FoldsResult":
    """Write comparison.json and predictions.csv. Finished folds of a stopped run are not repeated."""
    from finetune.comparisons.folds.trainings import cross_validate

    return cross_validate(recipe, run, READS)


def summary(run: Run) -> list[str]:
    """The folds as a table for the screen."""
    from finetune.comparisons.folds.page import PAGE, screen_table
    from finetune.files import read_json

    path = run.path("comparison.json")
    return screen_table(PAGE.evaluation.from_json(read_json(path), path))
