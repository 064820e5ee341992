"""Stage ``learning_curve``: train the classifier and TF-IDF on growing parts of the rows."""

from typing import TYPE_CHECKING

from finetune.recipe import Recipe, Train
from finetune.run import Run

if TYPE_CHECKING:
    from finetune.comparisons.learning_curve.trainings import CurveResult

NAME = "learning_curve"
READS = (
    "learning_curve",
    "task",
    "weights",
    "split.seed",
    "evaluate.positive",
    "evaluate.resamples",
    *(f"train.{name}" for name in Train.model_fields),
)
OUTPUTS = ("comparison.json", "curve/*/result.json")


def check(recipe: Recipe, processes: int = 1) -> None:
    """Raise RecipeError, before the run is created, for settings that a learning curve does not support."""
    from finetune.errors import RecipeError

    if recipe.task != "classify" or processes != 1:
        raise RecipeError(
            "a learning curve needs task classify and one process", got=f"task {recipe.task}, --processes {processes}"
        )
    if recipe.classify.labels == "many":
        raise RecipeError("a learning curve needs one label per row", got="classify.labels=many")


def plans(recipe: Recipe) -> tuple[list[tuple[str, Recipe]], list[str]]:
    """The training that a dry run measures, and its closing note."""
    from finetune.comparisons.learning_curve.subsets import trainings

    wanted = trainings(recipe)
    whole = sum(share for share, _ in wanted)
    return [("all rows", recipe)], [f"{len(wanted)} trainings, together about {whole:.1f} times this one"]


def run(recipe: Recipe, run: Run) -> "CurveResult":
    """Write comparison.json. Finished trainings of a stopped run are not repeated."""
    from finetune.comparisons.learning_curve.trainings import draw_curve

    return draw_curve(recipe, run, READS)


def summary(run: Run) -> list[str]:
    """The curve as a table for the screen."""
    from finetune.comparisons.learning_curve.page import PAGE, screen_table
    from finetune.files import read_json

    path = run.path("comparison.json")
    return screen_table(PAGE.evaluation.from_json(read_json(path), path))
