"""The tasks that a recipe may name are those that the stages know."""

from typing import get_args

from finetune.recipe import Recipe
from finetune.stages.by_task import TASKS, task_of


def test_every_task_of_the_schema_is_there_and_no_other():
    assert set(TASKS) == set(get_args(Recipe.model_fields["task"].annotation))
    assert all(task_of(Recipe(task=name)) is task for name, task in TASKS.items())
