"""Stage ``prepare``: rows read, checked, split and counted in tokens."""

from finetune.recipe import Recipe
from finetune.run import Run
from finetune.stages.by_task import task_of

OUTPUTS = ["data/*"]


def run(recipe: Recipe, run: Run) -> dict:
    """Write the task's data files and data/card.json."""
    return task_of(recipe).prepare(recipe, run)
