"""What a task is to a run: what each stage asks of it.

A task is a folder beside this file: ``task.py`` answers what the stages ask, with what stands beside it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from finetune.errors import RecipeError
from finetune.evaluation.results import Evaluation, Start
from finetune.files import atomic_write
from finetune.hub.registry import DataRow
from finetune.models.gpt import GPT
from finetune.recipe import Recipe, Train
from finetune.report.page import Page
from finetune.run import Run
from finetune.tables.sources import DataSource
from finetune.tokenizer import Tokenizer
from finetune.training.loop import Job
from finetune.training.trainable import Trainable, adapt, freeze
from finetune.training.trial import Probe, choose

OF_TABLES = ("validation", "test", "encoding", "columns", "train.class_weights", "evaluate.metric",
             "evaluate.positive", "evaluate.threshold")  # settings of labelled tables


@dataclass(frozen=True)
class TrainingSetup:
    """A task's model with what moves set free."""

    model: nn.Module
    tokenizer: Tokenizer
    settings: Train  # method, learning rate, epochs and precision chosen
    trainable: Trainable
    why: list[str]  # of each choice


class Task(ABC):
    """What the stages ask, in their order; the methods that are not abstract suit most tasks.

    Its model is a module whose ``gpt`` is the GPT and whatever else it has a new head.
    """

    exported = "weights"  # what export/hf holds, in a word
    page: Page  # how its eval.json and data/card.json are parsed, and the report
    metrics: tuple[str, ...] = ("log_loss",)  # of a validation, by which train.metric may choose
    unread: tuple[str, ...] = ()  # settings that other tasks read: ``train.class_weights``, or all of ``columns``

    @abstractmethod
    def resolve_data(self, name: str, fetch: bool) -> str:
        """`recipe.data` as a name that means the same in any directory. fetch: without it nothing is downloaded."""

    @abstractmethod
    def locate(self, recipe: Recipe) -> DataSource:
        """The data on this machine. Raises DataError."""

    def registry_row(self, recipe: Recipe) -> DataRow | None:
        """The registry's row that the data are, where the task reads those."""
        return None

    def check(self, recipe: Recipe) -> None:
        """Raise DataError or RecipeError for what cannot be trained on, before any weights are downloaded."""
        if recipe.train.metric not in self.metrics:
            raise RecipeError(f"train.metric is nothing that the task {recipe.task} validates by",
                              got=recipe.train.metric, known=", ".join(self.metrics))
        usual = Recipe()
        for key in self.unread:
            own, other = (reduce(getattr, key.split("."), values) for values in (recipe, usual))
            if own != other:
                raise RecipeError(f"the task {recipe.task} does not read {key}", got=str(own), do="Leave it out.")

    @abstractmethod
    def prepare(self, recipe: Recipe, run: Run) -> dict:
        """Write data/*, card.json among it, and say what is there. Returns the stage's result, `prepared` below.

        It has {"splits": {"train": rows, ...}}, or {"tokens": {"train": tokens}} where the text is packed into blocks.
        """

    @abstractmethod
    def foresee(self, recipe: Recipe, context: int) -> dict:
        """What of `prepared` is known without the weights, for a dry run that does not have them; it is said."""

    @abstractmethod
    def build_model(self, recipe: Recipe, gpt: GPT, prepared: dict) -> nn.Module:
        """The model on top of a GPT. prepared: what ``prepare`` or ``foresee`` returned."""

    def set_free(self, model: nn.Module, gpt: GPT, settings: Train) -> Trainable:
        """Add the method's adapters and let move what it moves. As it stands for a GPT and a head on top of it."""
        adapt(gpt, settings)
        return freeze(model, gpt, settings.method, settings.last_blocks)

    @abstractmethod
    def build_job(self, recipe: Recipe, run: Run, built: TrainingSetup, device: torch.device) -> Job:
        """The job for the loop, over all rows."""

    @abstractmethod
    def evaluate(self, recipe: Recipe, run: Run, model: nn.Module, tokenizer: Tokenizer, start: Start) -> Evaluation:
        """Measure the best checkpoint's model. Files beside eval.json are written; the stage fills in the seconds."""

    @abstractmethod
    def verdict(self, evaluation: Evaluation) -> str:
        """What the numbers say, in a few sentences."""

    @abstractmethod
    def summary(self, evaluation: Evaluation) -> list[str]:
        """The result as a plain table for the screen."""

    @abstractmethod
    def export(self, recipe: Recipe, run: Run, model: nn.Module, tokenizer: Tokenizer) -> dict:
        """Write export/hf. Returns the stage's result, with "summary"."""

    def adapter_texts(self, run: Run) -> list[str]:
        """Texts on which an exported adapter is compared; none: on random tokens."""
        return []

    @abstractmethod
    def next_command(self, directory: Path) -> str:
        """What to type after ``finetune`` to use a finished run."""

    def probe(self, recipe: Recipe, run: Run, built: TrainingSetup, device: torch.device) -> Probe:
        """The steps that a dry run tries. As it stands for jobs that cost nothing before their first step."""
        whole = self.build_job(recipe, run, built, device)
        return Probe(whole, choose(whole.lengths, built.settings), whole)

    def evaluation_seconds(self, recipe: Recipe, run: Run, built: TrainingSetup, device: torch.device) -> float | None:
        """Seconds of the evaluation's forward passes, from some of them; none: unknown."""
        return None


def write_records(run: Run, records: dict[str, Iterable[dict]]) -> None:
    """data/NAME.jsonl for each split."""
    for name, rows in records.items():
        with atomic_write(run.path("data", f"{name}.jsonl")) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_records(run: Run, split: str) -> list[dict]:
    """The records that ``prepare`` left for a split."""
    with open(run.path("data", f"{split}.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def task_named(name: str) -> Task:
    """The task of that name: ``TASK`` in its folder's task.py."""
    return import_module(f"finetune.tasks.{name}.task").TASK
