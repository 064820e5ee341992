"""The one list of tasks: each name is a folder with a task in it, and what a recipe may name."""

import pytest
from pydantic import ValidationError

from finetune.recipe import Recipe
from finetune.tasks import TASKS
from finetune.tasks.base import Task, task_named


@pytest.mark.parametrize("name", TASKS)
def test_every_task_of_the_list_has_its_folder(name):
    assert Recipe(task=name).task == name
    assert isinstance(task_named(name), Task)


def test_an_unknown_task_is_refused():
    with pytest.raises(ValidationError, match=f"no task 'sequel'; known: {', '.join(TASKS)}"):
        Recipe(task="sequel")
