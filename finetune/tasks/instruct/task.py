"""The task ``instruct`` in a run: records of instructions in, a language model that answers them out."""

from pathlib import Path

import torch

from finetune.console import say, warn
from finetune.errors import RecipeError
from finetune.evaluation.results import Start
from finetune.export.hf import write_language_model
from finetune.files import read_json, write_json
from finetune.models.gpt import GPT
from finetune.models.heads import NextToken
from finetune.recipe import Recipe
from finetune.records import DataOrigin
from finetune.run import Run
from finetune.tables.sources import DataSource, resolve_path
from finetune.tables.splits import SPLITS
from finetune.tasks.base import OF_TABLES, Task, TrainingSetup, read_records, write_records
from finetune.tasks.instruct.job import Examples, build_job, evaluate, examples, generate_answers, prompt_ids
from finetune.tasks.instruct.page import PAGE, answers_table, verdict
from finetune.tasks.instruct.prepare import divide_records, prepare
from finetune.tasks.instruct.prompts import pieces
from finetune.tasks.instruct.records import (
    EXPECTED,
    MOST_LISTED,
    Instructions,
    InstructionsCard,
    locate_instructions,
    read_instructions,
)
from finetune.tasks.instruct.score import AnswersEvaluation
from finetune.tasks.setup import base_weights
from finetune.tasks.writing import TRIED, probe_training, write_rows, writing_seconds
from finetune.tokenizer import Tokenizer
from finetune.training.loop import Job
from finetune.training.precision import device_type
from finetune.training.trial import Probe


class InstructTask(Task):
    """Answer an instruction."""

    unread = (*OF_TABLES, "pretrain", "seq2seq")
    page = PAGE
    verdict = staticmethod(verdict)
    summary = staticmethod(answers_table)

    def resolve_data(self, name: str, fetch: bool) -> str:
        """The bundled sample, or a file's whole path."""
        return resolve_path(name)

    def locate(self, recipe: Recipe) -> DataSource:
        """A file of records."""
        return locate_instructions(recipe.data)

    def check(self, recipe: Recipe) -> None:
        """Every record, and that the prompt style has words for it."""
        super().check(recipe)
        if recipe.split.protocol == "balanced":
            raise RecipeError("split.protocol=balanced needs labels", known="grouped, ordered")
        for record in self._read(recipe).records:
            pieces(record, recipe.instruct)

    def _read(self, recipe: Recipe) -> Instructions:
        return read_instructions(self.locate(recipe).path, recipe.instruct)

    def prepare(self, recipe: Recipe, run: Run) -> dict:
        """data/{train,val,test}.jsonl."""
        source = self._read(recipe)
        tokenizer = Tokenizer.from_directory(base_weights(recipe, run).directory)
        origin = DataOrigin(**run.result("download")["data"])
        records, card = prepare(recipe, source, tokenizer, run.result("verify")["context"], origin)
        write_records(run, records)
        write_json(run.path("data", "card.json"), card.to_json())
        tokens, learnt = card.tokens, card.splits["train"]
        sizes = " / ".join(f"{name} {part.records:,}" for name, part in card.splits.items())
        say(f"records: {card.records:,}; {card.protocol} split: {sizes}; style {card.style}")
        say(f"tokens an example: median {tokens.median}, 95 % within {tokens.p95}, longest {tokens.max}; "
            f"{learnt.learnt_tokens:,} of {learnt.tokens:,} are learnt; {tokens.cut} prompts cut at "
            f"{tokens.max_length}")
        for line in source.malformed[:MOST_LISTED]:
            warn(f"left out: {line}")
        if source.malformed:
            warn(f"expected: {EXPECTED}" + (f"; data/card.json lists all {len(source.malformed):,}"
                                            if len(source.malformed) > MOST_LISTED else ""))
        for note in card.notes:
            say(f"note: {note}")
        return {"records": card.records, "max_length": tokens.max_length,
                "splits": {name: part.used for name, part in card.splits.items()}}

    def foresee(self, recipe: Recipe, context: int) -> dict:
        """The sizes of the splits."""
        source = self._read(recipe)
        max_length = min(recipe.max_length or context, context)
        records, _ = divide_records(recipe, source, Tokenizer.of_bytes(), max_length)
        say(f"records: {len(source.records):,}; " + " / ".join(f"{name} {len(part):,}"
                                                               for name, part in records.items()))
        return {"splits": {name: len(part) for name, part in records.items()}}

    def build_model(self, recipe: Recipe, gpt: GPT, prepared: dict) -> NextToken:
        """The GPT itself, which has no other head than its embedding."""
        return NextToken(gpt)

    def build_job(self, recipe: Recipe, run: Run, built: TrainingSetup, device: torch.device) -> Job:
        """Over the records of the training split."""
        return build_job(built.model, built.settings, *_examples(recipe, run, built.tokenizer), device)

    def evaluate(self, recipe: Recipe, run: Run, model: NextToken, tokenizer: Tokenizer,
                 start: Start) -> AnswersEvaluation:
        """Answers before and after; answers.csv holds all of the test's."""
        base, device = base_weights(recipe, run).load().model, torch.device(device_type())
        before = NextToken(getattr(base, "gpt", base)).to(device)
        evaluation, rows = evaluate(
            before, model, tokenizer, {name: read_records(run, name) for name in SPLITS}, recipe,
            run.result("prepare")["max_length"], start, device)
        write_rows(run.path("answers.csv"), rows)
        return evaluation

    def export(self, recipe: Recipe, run: Run, model: NextToken, tokenizer: Tokenizer) -> dict:
        """A language model's directory."""
        measured, data = run.path("eval.json"), run.path("data", "card.json")
        evaluation = AnswersEvaluation.from_json(read_json(measured), measured)
        card = InstructionsCard.from_json(read_json(data), data)
        return write_language_model(run, model.gpt, tokenizer, [self.verdict(evaluation)], [
            "The prompt, word for word as in training (here with a question of its own):", "",
            *("    " + line for line in card.prompt.splitlines())])

    def next_command(self, directory: Path) -> str:
        """A conversation."""
        return f"chat {directory}"

    def probe(self, recipe: Recipe, run: Run, built: TrainingSetup, device: torch.device) -> Probe:
        """With a validation of one forward pass."""
        train, val = _examples(recipe, run, built.tokenizer)
        return probe_training(train, val, built.settings,
                              lambda own, other: build_job(built.model, built.settings, own, other, device))

    def evaluation_seconds(self, recipe: Recipe, run: Run, built: TrainingSetup, device: torch.device) -> float:
        """Of answering the test's questions before and after training."""
        settings, gpt = recipe.instruct, built.model.to(device).eval().gpt
        prompts = [prompt_ids(record, built.tokenizer, settings, gpt.config.context)
                   for record in read_records(run, "test")]
        return writing_seconds([len(ids) for ids in prompts], settings.max_new_tokens, lambda rows: generate_answers(
            gpt, [prompts[row] for row in rows], built.tokenizer, TRIED, device))


def _examples(recipe: Recipe, run: Run, tokenizer: Tokenizer) -> list[Examples]:
    """Those to train on and those to validate with."""
    return [examples(read_records(run, name), tokenizer, recipe.instruct, run.result("prepare")["max_length"])
            for name in ("train", "val")]


TASK = InstructTask()
