"""The task ``instruct`` in a run: records of instructions in, a language model that answers them out."""

from pathlib import Path

import torch

from finetune.console import say, warn
from finetune.evaluation.results import Start
from finetune.export.exportable import Exportable
from finetune.export.hf import language_model_readme
from finetune.files import atomic_write, read_json, write_json
from finetune.models.gpt import GPT
from finetune.models.heads import NextToken
from finetune.recipe import Recipe
from finetune.records import Downloaded, Verified
from finetune.run import Run
from finetune.tables.cells import defuse, table_writer
from finetune.tables.sources import DataSource
from finetune.tables.splits import SPLITS
from finetune.tasks.base import Task, TrainingSetup, read_records, write_records
from finetune.tasks.instruct import page
from finetune.tasks.instruct.job import Examples, build_job, evaluate, examples, generate_answers, prompt_ids
from finetune.tasks.instruct.page import answers_table
from finetune.tasks.instruct.prompts import pieces
from finetune.tasks.instruct.records import (
    EXPECTED,
    MOST_LISTED,
    Instructions,
    locate_instructions,
    prepare,
    read_instructions,
)
from finetune.tasks.setup import base_weights, load_base
from finetune.tasks.writing import WrittenPrepared, answer_groups, refuse_balanced
from finetune.tokenizer import Tokenizer
from finetune.training.batching import micro_batches
from finetune.training.loop import Job
from finetune.training.precision import device_type
from finetune.training.trial import Probe, choose, second_time

SAMPLES = 10  # test records that the report shows
TRIED = 8  # tokens that a dry run lets a batch of prompts be answered with


class InstructTask(Task):
    """Answer an instruction."""

    prepared = WrittenPrepared
    evaluation_files = ("answers.csv",)
    verdict = staticmethod(page.verdict)
    summary = staticmethod(answers_table)
    page = staticmethod(page.page)

    def locate(self, recipe: Recipe) -> DataSource:
        """A file of records."""
        return locate_instructions(recipe.data)

    def check_settings(self, recipe: Recipe) -> None:
        """Records have no labels."""
        super().check_settings(recipe)
        refuse_balanced(recipe)

    def check_data(self, recipe: Recipe) -> None:
        """Every record, and that the prompt style has words for it."""
        for record in self._read(recipe).records:
            pieces(record, recipe.instruct)

    def _read(self, recipe: Recipe) -> Instructions:
        return read_instructions(self.locate(recipe).path, recipe.instruct)

    def prepare(self, recipe: Recipe, run: Run) -> WrittenPrepared:
        """data/{train,val,test}.jsonl."""
        source = self._read(recipe)
        tokenizer = Tokenizer.from_directory(base_weights(recipe, run).directory)
        records, card = prepare(recipe, source, tokenizer, run.result("verify", Verified).context)
        write_records(run, records)
        write_json(run.path("data", "card.json"), run.result("download", Downloaded).data.to_json() | card)
        tokens = card["tokens"]
        sizes = " / ".join(f"{name} {part['records']:,}" for name, part in card["splits"].items())
        learnt = card["splits"]["train"]["learnt_tokens"]
        say(f"records: {card['records']:,}; {card['protocol']} split: {sizes}; style {card['style']}")
        say(f"tokens an example: median {tokens['median']}, 95 % within {tokens['p95']}, longest {tokens['max']}; "
            f"{learnt:,} of {card['splits']['train']['tokens']:,} are learnt; {tokens['cut']} prompts cut at "
            f"{tokens['max_length']}")
        for line in source.malformed[:MOST_LISTED]:
            warn(f"left out: {line}")
        if source.malformed:
            warn(f"expected: {EXPECTED}" + (f"; data/card.json lists all {len(source.malformed):,}"
                                            if len(source.malformed) > MOST_LISTED else ""))
        for note in card["notes"]:
            say(f"note: {note}")
        return WrittenPrepared({name: part["used"] for name, part in card["splits"].items()}, card["records"],
                               tokens["max_length"], tokenizer.end_of_text)

    def preview(self, recipe: Recipe, context: int) -> WrittenPrepared:
        """The sizes of the splits."""
        records, card = prepare(recipe, self._read(recipe), Tokenizer.of_bytes(), context)
        say(f"records: {card['records']:,}; " + " / ".join(f"{name} {len(part):,}" for name, part in records.items()))
        return WrittenPrepared({name: len(part) for name, part in records.items()}, card["records"], context, 0)

    def build_model(self, recipe: Recipe, gpt: GPT, prepared: WrittenPrepared) -> NextToken:
        """The GPT itself, which has no other head than its embedding."""
        return NextToken(gpt)

    def build_job(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> Job:
        """Over the records of the training split."""
        return build_job(setup.model, setup.settings, *_examples(recipe, run, setup.tokenizer), device)

    def evaluate(self, recipe: Recipe, run: Run, model: NextToken, tokenizer: Tokenizer, start: Start) -> dict:
        """Answers before and after; page.csv holds all of the test's."""
        device = torch.device(device_type())
        before = NextToken(load_base(recipe, run).body).to(device)
        found, rows = evaluate(
            before, model, tokenizer, {name: read_records(run, name) for name in SPLITS}, recipe.instruct,
            run.result("prepare", WrittenPrepared).max_length, recipe.evaluate.resamples, recipe.train.seed, device)
        with atomic_write(run.path("answers.csv")) as file:
            writer = table_writer(file)
            writer.writerow(rows[0])
            writer.writerows([defuse(str(value)) for value in row.values()] for row in rows)
        shown = min(SAMPLES, len(rows))
        return found | {"samples": [rows[len(rows) * (2 * i + 1) // (2 * shown)] for i in range(shown)]}

    def exportable(self, recipe: Recipe, run: Run, model: NextToken, tokenizer: Tokenizer) -> Exportable:
        """A language model, with the prompt that it was trained on."""
        evaluation, card = read_json(run.path("eval.json")), read_json(run.path("data", "card.json"))
        readme = language_model_readme(run.name, evaluation["weights"]["name"], [page.verdict(evaluation)], [
            "The prompt, word for word as in training (here with a question of its own):", "",
            *("    " + line for line in card["prompt"].splitlines())])
        return Exportable(run.name, model.gpt, tokenizer, readme)

    def next_command(self, directory: Path) -> str:
        """A conversation."""
        return f"chat {directory}"

    def probe(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> Probe:
        """With a validation of one forward pass."""
        train, val = _examples(recipe, run, setup.tokenizer)
        whole = build_job(setup.model, setup.settings, train, val, device)
        lengths = [len(row) for row in val.inputs]
        largest = max(micro_batches(list(range(len(lengths))), lengths, setup.settings.micro_batch_tokens),
                      key=lambda rows: len(rows) * lengths[rows[-1]])
        job = build_job(setup.model, setup.settings, train, val.take(largest), device)
        return Probe(job, choose(whole.lengths, setup.settings), whole)

    def evaluation_seconds(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> float:
        """Of answering the test's questions before and after training, were every answer as long as allowed."""
        settings, gpt = recipe.instruct, setup.model.to(device).eval().gpt
        prompts = [prompt_ids(record, setup.tokenizer, settings, gpt.config.context)
                   for record in read_records(run, "test")]
        groups = answer_groups([len(ids) for ids in prompts], settings.max_new_tokens)
        some = [prompts[i] for i in groups[len(groups) // 2]]
        took = second_time(lambda: generate_answers(gpt, some, setup.tokenizer, TRIED, device))
        return 2 * took * len(groups) * settings.max_new_tokens / TRIED


def _examples(recipe: Recipe, run: Run, tokenizer: Tokenizer) -> list[Examples]:
    """Those to train on and those to validate with."""
    return [examples(read_records(run, name), tokenizer, recipe.instruct,
                              run.result("prepare", WrittenPrepared).max_length) for name in ("train", "val")]


TASK = InstructTask()
