"""Stage ``prepare``: rows read, checked, split and counted in tokens."""

from finetune.recipe import Recipe
from finetune.run import Run
from finetune.tasks.base import task_named

OUTPUTS = ["data/*"]


def run(recipe: Recipe, run: Run) -> dict:
    """Write the task's data files and data/card.json."""
    return task_named(recipe.task).prepare(recipe, run)
