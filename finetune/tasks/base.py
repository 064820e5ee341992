"""The interface of a task: the methods that the stages call, and the values that pass between them.

Each task is a folder beside this file. Its ``task.py`` implements the interface, its ``settings.py`` declares which
settings it reads.
"""

import csv
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from finetune.checkpoints.scratch import Architecture
from finetune.errors import RecipeError, RunError, WeightsError
from finetune.evaluation.choice import MODEL
from finetune.evaluation.compare_runs import TestedRows
from finetune.evaluation.results import Evaluation, Start
from finetune.export.exportable import Exportable, Exported
from finetune.files import atomic_write
from finetune.hub.registry import DataRow
from finetune.models.bodies import Body
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.transformer import TransformerConfig
from finetune.recipe import FEATURES, Recipe, Train
from finetune.records import PreparedRow, R, Record, parse_rows
from finetune.report.page import Page
from finetune.run import Run
from finetune.tables.cells import unescape_formula
from finetune.tables.sources import DataSource, resolve_path
from finetune.tokenizer import Tokenizer
from finetune.training.job import Job
from finetune.training.tracking import check_tracker
from finetune.training.trainable import Trainable, adapt, check_shared_blocks, freeze
from finetune.training.trial import Probe, choose


@dataclass(frozen=True)
class Prepared(Record):
    """The result of the stage ``prepare``; each task adds its own."""

    splits: dict[str, int]  # rows in train, val and test

    def training_rows(self, context: int) -> int:
        """Number of training rows. context: the model's, for a task whose rows are blocks of that many tokens."""
        return self.splits["train"]


P = TypeVar("P", bound=Prepared)
B = TypeVar("B", bound=Body)
M = TypeVar("M", bound=nn.Module)
E = TypeVar("E", bound=Evaluation)


@dataclass(frozen=True)
class TrainingSetup(Generic[M]):
    """A task's model, with the weights that the method trains set to trainable."""

    model: M
    tokenizer: Tokenizer
    settings: Train  # with method, learning rate, epochs and precision chosen
    trainable: Trainable
    why: list[str]  # a reason for each choice


class Task(ABC, Generic[P, B, M, E]):
    """The methods that the stages call, in this order; those with a body suit most tasks.

    P, B, M, E: the types of the prepared data, the starting weights, the model and the evaluation.
    The model is a module whose ``body`` is the language model; everything else in it is a new head.
    """

    prepared: type[P] = Prepared  # type: ignore[assignment]  # a task that adds nothing has this P
    exported = "weights"  # a word for the content of export/hf
    page: Page[E, Any]  # parses eval.json and data/card.json, and builds the report
    metrics: tuple[str, ...] = ("log_loss",)  # validation metrics that train.metric may name
    evaluation_files: tuple[str, ...] = ()  # files that ``evaluate`` writes beside eval.json
    solvable = False  # whether the method features can solve for the head alone
    bodies: tuple[type[Body], ...] = (GPT,)  # model classes that it can start from

    def variant(self, recipe: Recipe) -> "AnyTask":
        """The variant of this task that the settings select; by default the task itself."""
        return self

    def resolve(self, recipe: Recipe, fetch: bool) -> Recipe:
        """The recipe with absolute paths, so that it means the same in any directory.

        fetch: whether to download data that are named but missing.
        """
        return recipe.model_copy(update={"data": resolve_path(recipe.data)})

    @abstractmethod
    def locate(self, recipe: Recipe) -> DataSource:
        """The data on this machine. Raises DataError."""

    def registry_row(self, recipe: Recipe) -> DataRow | None:
        """The registry's row for the data; None for a file or a task that reads no registry data."""
        return None

    def files(self, recipe: Recipe) -> dict[str, Path]:
        """Every file or folder of data, by a description such as "the data"."""
        return {"the data": self.locate(recipe).path}

    def check_settings(self, recipe: Recipe) -> None:
        """Raise RecipeError for incompatible settings, before the run is created."""
        if recipe.train.metric not in self.metrics:
            raise RecipeError(
                f"{recipe.train.metric!r} is not a validation metric of the task {recipe.task}",
                got=f"train.metric={recipe.train.metric}",
                known=", ".join(self.metrics),
            )
        check_tracker(recipe.train)
        if recipe.train.method == FEATURES and not self.solvable:
            raise RecipeError(
                "method features is for classifiers of texts",
                got=f"task {recipe.task}",
                do="Choose another train.method, such as last-blocks.",
            )

    def check_data(self, recipe: Recipe) -> None:  # noqa: B027 (a task may have nothing to check)
        """Raise DataError for data that cannot be trained on, before any weights are downloaded."""

    def check_prepared(self, recipe: Recipe, prepared: P) -> None:  # noqa: B027
        """Raise RecipeError for settings that do not suit the prepared data, before training."""

    def check_start(self, recipe: Recipe, body: type[Body], config: GPTConfig) -> None:
        """Raise WeightsError or RecipeError if this recipe cannot start from a model of this class and shape."""
        if body not in self.bodies:
            raise WeightsError(
                f"{recipe.weights}: this task cannot start from {body.kind}'s weights",
                known=" or ".join(f"{kind.kind}'s" for kind in self.bodies),
                do="Give other weights, or run another task.",
            )
        if isinstance(config, TransformerConfig) and config.shared_blocks:
            check_shared_blocks(recipe.train.method)

    def architecture(self, recipe: Recipe) -> Architecture:
        """The architecture that ``weights = "scratch"`` creates."""
        return "decoder"

    def new_tokenizer(self, recipe: Recipe) -> Tokenizer:
        """The tokenizer of new weights. Like that of existing weights, it is then passed to ``tokenizer``."""
        shape = recipe.shape
        return Tokenizer.from_directory(Path(shape.tokenizer)) if shape.tokenizer else Tokenizer.of_bytes()

    def tokenizer(self, recipe: Recipe, own: Tokenizer) -> Tokenizer:
        """The weights' own tokenizer with the tokens that the task adds."""
        return own

    @abstractmethod
    def prepare(self, recipe: Recipe, run: Run) -> P:
        """Write data/*, including card.json, and print a summary."""

    @abstractmethod
    def preview(self, recipe: Recipe, context: int) -> P | None:
        """The part of ``prepare``'s result that is known without the weights, for a dry run. Also prints it. None: nothing."""

    @abstractmethod
    def build_model(self, recipe: Recipe, gpt: B, prepared: P) -> M:
        """The model on top of a GPT. prepared: what ``prepare`` or ``preview`` returned."""

    def configure_trainable(self, model: M, gpt: B, settings: Train) -> Trainable:
        """Add the method's adapters and select the trained weights. This default is for a GPT with a head."""
        adapt(gpt, settings)
        return freeze(model, gpt, settings.method, settings.last_blocks)

    @abstractmethod
    def build_job(self, recipe: Recipe, run: Run, setup: TrainingSetup[M], device: torch.device) -> Job[M]:
        """The job for the training loop, over all rows."""

    @abstractmethod
    def evaluate(self, recipe: Recipe, run: Run, model: M, tokenizer: Tokenizer, start: Start) -> E:
        """Evaluate the best checkpoint's model and write the files in ``evaluation_files``."""

    @abstractmethod
    def verdict(self, evaluation: E) -> str:
        """The verdict in a few sentences."""

    @abstractmethod
    def summary(self, evaluation: E) -> list[str]:
        """The result as a plain-text table."""

    @abstractmethod
    def exportable(self, recipe: Recipe, run: Run, model: M, tokenizer: Tokenizer) -> Exportable:
        """A finished run's model with everything that the export formats write."""

    def tested_rows(self, run: Run) -> TestedRows | None:
        """A finished run's output for each test row, to compare runs. None: the task does not store them."""
        return None

    def winner(self, run: Run) -> str:
        """The name of the bundle's predictor: the model, or another one that the evaluation chose."""
        return MODEL

    def export_winner(self, recipe: Recipe, run: Run) -> Exported:
        """Write export/bundle/, for a run whose winner is not the model."""
        raise NotImplementedError

    @abstractmethod
    def next_command(self, directory: Path) -> str:
        """The ``finetune`` arguments to use a finished run."""

    def probe(self, recipe: Recipe, run: Run, setup: TrainingSetup[M], device: torch.device) -> Probe:
        """The steps that a dry run measures. This default is for jobs without costs before their first step."""
        whole = self.build_job(recipe, run, setup, device)
        return Probe(whole, choose(whole.lengths, setup.settings), whole)

    def alternatives(self, recipe: Recipe, run: Run) -> list[str]:
        """The cost of other values of the task's settings, as lines for a dry run."""
        return []

    def evaluation_seconds(
        self, recipe: Recipe, run: Run, setup: TrainingSetup[M], device: torch.device
    ) -> float | None:
        """Estimated seconds of the evaluation's forward passes, from a few of them. None: unknown."""
        return None


AnyTask = Task[Any, Any, Any, Any]  # a task found by its name


def task_named(name: str) -> AnyTask:
    """The task with this name: ``TASK`` in its folder's task.py."""
    task: AnyTask = import_module(f"finetune.tasks.{name}.task").TASK
    return task


def task_of(recipe: Recipe) -> AnyTask:
    """The task that a recipe names, in the variant that its settings select."""
    return task_named(recipe.task).variant(recipe)


def write_records(run: Run, records: Mapping[str, Iterable[PreparedRow]]) -> None:
    """Write data/SPLIT.jsonl for each split."""
    for name, rows in records.items():
        with atomic_write(run.path("data", f"{name}.jsonl")) as file:
            file.writelines(json.dumps(row, ensure_ascii=False, default=vars) + "\n" for row in rows)


def read_records(run: Run, split: str, *kinds: type[R]) -> list[R]:
    """The records that ``prepare`` wrote for a split. kinds: the expected types.

    Raises RunError if the file cannot be read or a line fits none of the types.
    """
    path = run.path("data", f"{split}.jsonl")
    try:
        with open(path, "rb") as file:
            return parse_rows(file, kinds, path)
    except OSError as error:
        raise RunError(
            f"cannot read {path}", got=error.strerror or str(error), do="Run again with --from prepare."
        ) from error


def read_tested(path: Path, columns: tuple[str, str, str], given: str) -> tuple[list[tuple[str, str, str]], list[str]]:
    """The rows of a table that ``evaluate`` wrote, in the order of their numbers, and the column `given`.

    columns: the names of the columns with the row number, the text and the reference.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open(path, encoding="utf-8", newline="") as file:
        table = sorted(csv.DictReader(file, strict=True), key=lambda line: int(line[columns[0]]))
    number, text, wanted = columns
    rows = [(line[number], unescape_formula(line[text]), unescape_formula(line[wanted])) for line in table]
    return rows, [unescape_formula(line[given]) for line in table]
