"""The one list of tasks: each name is a folder with a task in it, and what a recipe may name."""

from typing import get_args

from finetune.recipe import Recipe
from finetune.tasks import TASKS
from finetune.tasks.base import Task, task_named


def test_every_task_of_the_list_has_its_folder():
    assert set(TASKS) == set(get_args(Recipe.model_fields["task"].annotation))
    assert all(isinstance(task_named(name), Task) for name in TASKS)
