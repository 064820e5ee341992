"""What a task is to a run: what each stage asks of it, and the values that it hands on.

A task is a folder beside this file. Its ``task.py`` answers what the stages ask, with what stands beside it; its
``settings.py`` says which settings it reads.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from finetune.errors import RecipeError, RunError, WeightsError
from finetune.evaluation.results import Evaluation, Start
from finetune.export.exportable import Exportable
from finetune.files import atomic_write
from finetune.hub.registry import DataRow
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT
from finetune.recipe import Recipe, Train
from finetune.records import PreparedRow, R, Record, parse_rows
from finetune.report.page import Page
from finetune.run import Run
from finetune.tables.sources import DataSource, resolve_path
from finetune.tokenizer import Tokenizer
from finetune.training.loop import Job
from finetune.training.trainable import Trainable, adapt, freeze
from finetune.training.trial import Probe, choose


@dataclass(frozen=True)
class Prepared(Record):
    """The result of the stage ``prepare``; each task adds its own."""

    splits: dict[str, int]  # rows of train, val and test

    def training_rows(self, context: int) -> int:
        """Rows to train on. context: of the model, for a task whose rows are blocks of that many tokens."""
        return self.splits["train"]


P = TypeVar("P", bound=Prepared)
B = TypeVar("B", bound=GPT | EncoderDecoder)
M = TypeVar("M", bound=nn.Module)
E = TypeVar("E", bound=Evaluation)


@dataclass(frozen=True)
class TrainingSetup(Generic[M]):
    """A task's model, with the method's weights set to trainable."""

    model: M
    tokenizer: Tokenizer
    settings: Train  # method, learning rate, epochs and precision chosen
    trainable: Trainable
    why: list[str]  # of each choice


class Task(ABC, Generic[P, B, M, E]):
    """What the stages ask, in their order; the methods that are not abstract suit most tasks.

    P, B, M, E: what it prepares, the bodies that it starts from, its model and its evaluation.
    Its model is a module whose ``gpt`` is the GPT and whatever else it has a new head.
    """

    prepared: type[P] = Prepared  # type: ignore[assignment]  # a task that adds nothing has this P
    exported = "weights"  # what export/hf holds, in a word
    page: Page[E, Any]  # how its eval.json and data/card.json are parsed, and the report
    metrics: tuple[str, ...] = ("log_loss",)  # of a validation, by which train.metric may choose
    evaluation_files: tuple[str, ...] = ()  # that ``evaluate`` writes beside eval.json
    bodies: tuple[type[GPT] | type[EncoderDecoder], ...] = (GPT,)  # models that it can start from

    def variant(self, recipe: Recipe) -> "AnyTask":
        """The task that these settings mean: itself, or one of its forms."""
        return self

    def resolve(self, recipe: Recipe, fetch: bool) -> Recipe:
        """The recipe with data named so that they mean the same in any directory.

        fetch: download what the names stand for; without it nothing is.
        """
        return recipe.model_copy(update={"data": resolve_path(recipe.data)})

    @abstractmethod
    def locate(self, recipe: Recipe) -> DataSource:
        """The data on this machine. Raises DataError."""

    def registry_row(self, recipe: Recipe) -> DataRow | None:
        """The registry's row that the data are, where the task reads those."""
        return None

    def files(self, recipe: Recipe) -> dict[str, Path]:
        """Every file or folder that the data come from, by what it is in words."""
        return {"the data": self.locate(recipe).path}

    def check_settings(self, recipe: Recipe) -> None:
        """Raise RecipeError for incompatible settings, before the run is created."""
        if recipe.train.metric not in self.metrics:
            raise RecipeError(
                f"{recipe.train.metric!r} is not a validation metric of the task {recipe.task}",
                got=f"train.metric={recipe.train.metric}",
                known=", ".join(self.metrics),
            )

    def check_data(self, recipe: Recipe) -> None:  # noqa: B027 (a task may have nothing to check)
        """Raise DataError for data that cannot be trained on, before any weights are downloaded."""

    def check_prepared(self, recipe: Recipe, prepared: P) -> None:  # noqa: B027
        """Raise RecipeError for settings that the prepared data cannot serve, before anything is trained."""

    def check_body(self, body: GPT | EncoderDecoder, name: str) -> None:
        """Raise WeightsError where this task cannot start from these weights."""
        if not isinstance(body, self.bodies):
            raise WeightsError(
                f"{name}: {body.kind}'s weights",
                known=" or ".join(f"{kind.kind}'s" for kind in self.bodies),
                do="Give other weights, or run a task that starts from these.",
            )

    @abstractmethod
    def prepare(self, recipe: Recipe, run: Run) -> P:
        """Write data/*, card.json among it, and say what is there."""

    @abstractmethod
    def preview(self, recipe: Recipe, context: int) -> P | None:
        """What of ``prepare``'s result is known without the weights, for a dry run; it is said. None: nothing."""

    @abstractmethod
    def build_model(self, recipe: Recipe, gpt: B, prepared: P) -> M:
        """The model on top of a GPT. prepared: what ``prepare`` or ``preview`` returned."""

    def configure_trainable(self, model: M, gpt: B, settings: Train) -> Trainable:
        """Add the method's adapters and set what it trains. As it stands for a GPT and a head on top of it."""
        adapt(gpt, settings)
        return freeze(model, gpt, settings.method, settings.last_blocks)

    @abstractmethod
    def build_job(self, recipe: Recipe, run: Run, setup: TrainingSetup[M], device: torch.device) -> Job[M]:
        """The job for the loop, over all rows."""

    @abstractmethod
    def evaluate(self, recipe: Recipe, run: Run, model: M, tokenizer: Tokenizer, start: Start) -> E:
        """Measure the best checkpoint's model, and write what ``evaluation_files`` names."""

    @abstractmethod
    def verdict(self, evaluation: E) -> str:
        """The verdict in a few sentences."""

    @abstractmethod
    def summary(self, evaluation: E) -> list[str]:
        """The result as a plain table for the screen."""

    @abstractmethod
    def exportable(self, recipe: Recipe, run: Run, model: M, tokenizer: Tokenizer) -> Exportable:
        """A finished run's model as a format writes it, with all that stands beside its weights."""

    @abstractmethod
    def next_command(self, directory: Path) -> str:
        """The ``finetune`` arguments that use a finished run."""

    def probe(self, recipe: Recipe, run: Run, setup: TrainingSetup[M], device: torch.device) -> Probe:
        """The steps that a dry run tries. As it stands for jobs that cost nothing before their first step."""
        whole = self.build_job(recipe, run, setup, device)
        return Probe(whole, choose(whole.lengths, setup.settings), whole)

    def evaluation_seconds(
        self, recipe: Recipe, run: Run, setup: TrainingSetup[M], device: torch.device
    ) -> float | None:
        """Seconds of the evaluation's forward passes, from some of them; none: unknown."""
        return None


AnyTask = Task[Any, Any, Any, Any]  # one that a recipe names


def task_named(name: str) -> AnyTask:
    """The task of that name: ``TASK`` in its folder's task.py."""
    task: AnyTask = import_module(f"finetune.tasks.{name}.task").TASK
    return task


def task_of(recipe: Recipe) -> AnyTask:
    """The task that a recipe names, in the form that its settings ask for."""
    return task_named(recipe.task).variant(recipe)


def write_records(run: Run, records: Mapping[str, Iterable[PreparedRow]]) -> None:
    """data/NAME.jsonl for each split."""
    for name, rows in records.items():
        with atomic_write(run.path("data", f"{name}.jsonl")) as file:
            file.writelines(json.dumps(row, ensure_ascii=False, default=vars) + "\n" for row in rows)


def read_records(run: Run, split: str, *kinds: type[R]) -> list[R]:
    """The records that ``prepare`` left for a split, each of one of these kinds.

    Raises RunError for a file that cannot be read or a line of another shape.
    """
    path = run.path("data", f"{split}.jsonl")
    try:
        with open(path, "rb") as file:
            return parse_rows(file, kinds, path)
    except OSError as error:
        raise RunError(
            f"cannot read {path}", got=error.strerror or str(error), do="Run again with --from prepare."
        ) from error
