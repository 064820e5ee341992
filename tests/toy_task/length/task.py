"""The task ``length`` in a run: a file of lines in, a model that tells the long ones out."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from finetune.evaluation.intervals import wilson
from finetune.evaluation.results import Evaluation, Headline, Metric, Start
from finetune.export.exportable import Exportable
from finetune.files import write_json
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier
from finetune.recipe import Recipe
from finetune.records import DataOrigin, Downloaded, PreparedRow
from finetune.report.blocks import PageContent, Section, Text
from finetune.report.page import Files, Page, make_page
from finetune.run import Run
from finetune.tables.detect import Detected
from finetune.tables.sources import DataSource
from finetune.tables.tables import TableFormat
from finetune.tasks.base import Prepared, Task, TrainingSetup, read_records, write_records
from finetune.tokenizer import Tokenizer
from finetune.training.collate import pad_ids
from finetune.training.job import Job
from finetune.training.predict import predict_logits
from finetune.training.token_rows import encode

LABELS = ["short", "long"]
CONTEXT = 64


@dataclass(frozen=True)
class LengthRow(PreparedRow):
    """A line and the number of its label."""

    text: str
    label: int


@dataclass(frozen=True, kw_only=True)
class LengthCard(DataOrigin):
    """What data/card.json holds."""

    rows: int


@dataclass(frozen=True, kw_only=True)
class LengthEvaluation(Evaluation):
    """What eval.json holds."""

    commonest: float  # share of the commoner label


def verdict(evaluation: LengthEvaluation) -> str:
    """What the numbers say."""
    return f"Accuracy {evaluation.headline.value:.3f}; always the commoner label: {evaluation.commonest:.3f}."


def page(files: Files) -> PageContent:
    """The report."""
    said = verdict(files.evaluation)
    return make_page(files, "Length report", said, [], [Section("data", "Data", [Text(f"{files.card.rows} lines")])])


class LengthTask(Task):
    """Tell long texts from short ones."""

    metrics = ("accuracy", "f1_macro", "log_loss")
    page = Page(LengthEvaluation, LengthCard, page)
    verdict = staticmethod(verdict)

    def locate(self, recipe: Recipe) -> DataSource:
        """A text file, a line a text."""
        return DataSource(Path(recipe.data).name, Path(recipe.data), Detected(TableFormat()), "the user's file")

    def prepare(self, recipe: Recipe, run: Run) -> Prepared:
        """data/{train,val,test}.jsonl."""
        lines = self.locate(recipe).path.read_text(encoding="utf-8").splitlines()
        random.Random(recipe.split.seed).shuffle(lines)
        rows = [LengthRow(i, line, int(len(line) >= recipe.length.long)) for i, line in enumerate(lines)]
        fifth = len(rows) // 5
        splits = {"val": rows[:fifth], "test": rows[fifth : 2 * fifth], "train": rows[2 * fifth :]}
        write_records(run, splits)
        card = LengthCard(**vars(run.result("download", Downloaded).data), rows=len(rows))
        write_json(run.path("data", "card.json"), card.to_json())
        return Prepared({name: len(part) for name, part in splits.items()})

    def preview(self, recipe: Recipe, context: int) -> None:
        """Nothing."""

    def build_model(self, recipe: Recipe, gpt: GPT, prepared: Prepared) -> Classifier:
        """The GPT with a head of two labels."""
        return Classifier(gpt, len(LABELS)).initialise_head(recipe.train.seed)

    def build_job(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> Job:
        """Over the lines of the training split."""
        (ids, targets), (val_ids, val_targets) = (_examples(run, name, setup.tokenizer) for name in ("train", "val"))

        def batch(rows):
            return *pad_ids([ids[i] for i in rows]), torch.from_numpy(targets[rows])

        def loss_sum(module, tensors):
            inputs, last, wanted = tensors
            return F.cross_entropy(module(inputs, last), wanted, reduction="sum")

        def validate(module):
            logits = torch.from_numpy(predict_logits(module, val_ids))
            wanted = torch.from_numpy(val_targets)
            right = float((logits.argmax(1) == wanted).float().mean())
            return {"log_loss": float(F.cross_entropy(logits, wanted)), "accuracy": right, "f1_macro": right}

        return Job(setup.model, ids.lengths(), [1.0] * len(ids), batch, loss_sum, validate, name_row=str)

    def evaluate(
        self, recipe: Recipe, run: Run, model: Classifier, tokenizer: Tokenizer, start: Start
    ) -> LengthEvaluation:
        """Accuracy on the test's lines."""
        ids, targets = _examples(run, "test", tokenizer)
        right = predict_logits(model, ids).argmax(1) == targets
        low, high = wilson(int(right.sum()), len(right))
        accuracy = Metric(float(right.mean()), low, high, len(right))
        return LengthEvaluation(
            **vars(start),
            schema_version=1,
            task="length",
            seconds=0.0,
            metrics={"accuracy": accuracy},
            headline=Headline(**vars(accuracy), metric="accuracy", split="test"),
            commonest=float(max(targets.mean(), 1 - targets.mean())),
        )

    def summary(self, evaluation: LengthEvaluation) -> list[str]:
        """The result for the screen."""
        return [f"accuracy {evaluation.headline.value:.3f}"]

    def exportable(self, recipe: Recipe, run: Run, model: Classifier, tokenizer: Tokenizer) -> Exportable:
        """A classifier, compared on the test's lines."""
        texts = [record.text for record in read_records(run, "test", LengthRow)]
        return Exportable(
            run.name,
            model,
            tokenizer,
            lambda exported: f"# {run.name}\n\n{exported.summary}\n",
            labels=LABELS,
            texts=texts,
            max_length=CONTEXT,
        )

    def next_command(self, directory: Path) -> str:
        """What can be done with it."""
        return f"export {directory}"


def _examples(run: Run, split: str, tokenizer: Tokenizer):
    records = read_records(run, split, LengthRow)
    return (
        encode(tokenizer, [record.text for record in records], CONTEXT),
        np.array([record.label for record in records]),
    )


TASK = LengthTask()
