"""Stage ``prepare``: read, check, split and tokenize the rows."""

from typing import TYPE_CHECKING

from finetune.recipe import Recipe
from finetune.run import Run

if TYPE_CHECKING:
    from finetune.tasks.base import Prepared

READS = ("task", "weights", "data")
OUTPUTS = ("data/*",)


def run(recipe: Recipe, run: Run) -> "Prepared":
    """Write the task's data files and data/card.json. Returns the task's ``Prepared``."""
    from finetune.tasks.base import task_of

    return task_of(recipe).prepare(recipe, run)


def confirm(recipe: Recipe, run: Run) -> None:
    """Raise RecipeError if the settings need something the prepared data lack, before training starts."""
    from finetune.tasks.base import task_of

    task = task_of(recipe)
    task.check_prepared(recipe, run.result("prepare", task.prepared))
