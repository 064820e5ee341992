"""What the stages do task by task. A new task is a file here with a ``Task`` in it, and a line in ``TASKS``."""

from finetune.recipe import Recipe
from finetune.stages.by_task.classify import ClassifyTask
from finetune.stages.by_task.instruct import InstructTask
from finetune.stages.by_task.pretrain import PretrainTask
from finetune.stages.by_task.seq2seq import Seq2SeqTask
from finetune.stages.by_task.task import Task

TASKS: dict[str, Task] = {"classify": ClassifyTask(), "pretrain": PretrainTask(), "instruct": InstructTask(),
                          "seq2seq": Seq2SeqTask()}


def task_of(recipe: Recipe) -> Task:
    """The task that a recipe names."""
    return TASKS[recipe.task]
