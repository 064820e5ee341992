"""The task ``instruct`` in a run: from instruction records to a language model that answers them."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch

from finetune.console import say, warn
from finetune.evaluation.compare_runs import TestedRows
from finetune.evaluation.results import Start
from finetune.export.card import Card
from finetune.export.exportable import Conversation, Exportable
from finetune.export.hf import language_model_readme
from finetune.files import read_json, write_json
from finetune.models.gpt import GPT
from finetune.models.heads import LossModule
from finetune.models.transformer import LanguageModel, Transformer
from finetune.recipe import Recipe
from finetune.records import Downloaded, Verified
from finetune.run import Run
from finetune.tables.sources import DataSource
from finetune.tables.splits import SPLITS
from finetune.tasks.base import Task, TrainingSetup, read_records, write_records
from finetune.tasks.instruct.examples import Examples, Tokens, conversation_ids, make_examples, prompt_room
from finetune.tasks.instruct.job import build_job, evaluate, generate_answers
from finetune.tasks.instruct.page import PAGE, answers_table, verdict
from finetune.tasks.instruct.prepare import divide_records, prepare
from finetune.tasks.instruct.prompts import as_messages, chat_template, markers, ollama_template, pieces
from finetune.tasks.instruct.records import (
    EXPECTED,
    MOST_LISTED,
    Dialogue,
    Instruction,
    Instructions,
    InstructionsCard,
    locate_instructions,
    read_field,
    read_instructions,
)
from finetune.tasks.instruct.score import AnswersEvaluation, answer_scores
from finetune.tasks.setup import base_weights, load_base
from finetune.tasks.writing import (
    TRIED,
    WrittenPrepared,
    load_tokens,
    probe_training,
    refuse_balanced,
    save_tokens,
    tested_texts,
    write_rows,
    writing_seconds,
)
from finetune.tokenizer import Tokenizer
from finetune.training.job import Job
from finetune.training.precision import device_type
from finetune.training.trial import Probe

COMPARED = 100  # conversations on which the chat template is compared
SPECIAL_TOKENS = [  # for a style with several answers, each ended by a special token
    "A `<|endoftext|>` that somebody types stays text with `tokenizer.apply_chat_template(messages,",
    "add_generation_prompt=True, sanitize_control_tokens=True)`, in transformers from 5.23 on; else it ends an answer.",
    "",
]


class InstructTask(Task[WrittenPrepared, LanguageModel, LossModule[LanguageModel], AnswersEvaluation]):
    """Answer an instruction."""

    prepared = WrittenPrepared
    bodies = (GPT, Transformer)
    evaluation_files = ("answers.csv",)
    page = PAGE
    verdict = staticmethod(verdict)
    summary = staticmethod(answers_table)

    def locate(self, recipe: Recipe) -> DataSource:
        """A file of records."""
        return locate_instructions(recipe.data)

    def check_settings(self, recipe: Recipe) -> None:
        """Records have no labels."""
        super().check_settings(recipe)
        refuse_balanced(recipe)

    def check_data(self, recipe: Recipe) -> None:
        """Check every record, and that the prompt style can express it."""
        for record in self._read(recipe).records:
            pieces(record, recipe.instruct)
        self._column(recipe)

    def _column(self, recipe: Recipe) -> dict[int, str] | None:
        """Row number -> value of the field whose values are slices, if the recipe names one."""
        name = recipe.evaluate.slice_by
        return read_field(self.locate(recipe).path, name) if name else None

    def _read(self, recipe: Recipe) -> Instructions:
        return read_instructions(self.locate(recipe).path, recipe.instruct)

    def prepare(self, recipe: Recipe, run: Run) -> WrittenPrepared:
        """Write data/{train,val,test}.jsonl and their tokens."""
        source = self._read(recipe)
        tokenizer = Tokenizer.from_directory(base_weights(recipe, run).directory)
        origin = run.result("download", Downloaded).data
        records, found, card = prepare(recipe, source, tokenizer, run.result("verify", Verified).context, origin)
        write_records(run, records)
        save_tokens(run, found)
        write_json(run.path("data", "card.json"), card.to_json())
        tokens, learnt = card.tokens, card.splits["train"]
        sizes = " / ".join(f"{name} {part.records:,}" for name, part in card.splits.items())
        say(f"records: {card.records:,}; {card.protocol} split: {sizes}; style {card.style}")
        say(
            f"tokens per example: median {tokens.median}, 95 % have at most {tokens.p95}, longest {tokens.max}; "
            f"{learnt.learnt_tokens:,} of {learnt.tokens:,} training tokens in the loss; {tokens.cut} prompts "
            f"truncated to fit into {tokens.max_length}"
        )
        for line in source.malformed[:MOST_LISTED]:
            warn(f"left out: {line}")
        if source.malformed:
            warn(
                f"expected: {EXPECTED}"
                + (
                    f"; data/card.json lists all {len(source.malformed):,}"
                    if len(source.malformed) > MOST_LISTED
                    else ""
                )
            )
        for note in card.notes:
            say(f"note: {note}")
        return WrittenPrepared(
            {name: part.used for name, part in card.splits.items()},
            card.records,
            tokens.max_length,
            tokenizer.end_of_text,
        )

    def preview(self, recipe: Recipe, context: int) -> WrittenPrepared:
        """The sizes of the splits."""
        source = self._read(recipe)
        max_length = min(recipe.max_length or context, context)
        records, _ = divide_records(recipe, source, Tokenizer.of_bytes(), max_length)
        say(
            f"records: {len(source.records):,}; "
            + " / ".join(f"{name} {len(part):,}" for name, part in records.items())
        )
        return WrittenPrepared({name: len(part) for name, part in records.items()}, len(source.records), max_length, 0)

    def build_model(self, recipe: Recipe, gpt: LanguageModel, prepared: WrittenPrepared) -> LossModule[LanguageModel]:
        """The language model itself."""
        return LossModule(gpt)

    def build_job(
        self, recipe: Recipe, run: Run, setup: TrainingSetup[LossModule[LanguageModel]], device: torch.device
    ) -> Job[LossModule[LanguageModel]]:
        """The job over the training split's records."""
        train, val = _examples(recipe, run, "train", "val")
        return build_job(setup.model, setup.settings, train, val, device)

    def evaluate(
        self, recipe: Recipe, run: Run, model: LossModule[LanguageModel], tokenizer: Tokenizer, start: Start
    ) -> AnswersEvaluation:
        """Evaluate answers before and after training; answers.csv contains those to all test records."""
        device = torch.device(device_type())
        before = LossModule(cast(LanguageModel, load_base(recipe, run).body)).to(device)
        test, val = _examples(recipe, run, "test", "val")
        evaluation, rows = evaluate(
            before,
            model,
            tokenizer,
            {name: read_records(run, name, Instruction, Dialogue) for name in SPLITS},
            {"test": test, "val": val},
            recipe,
            start,
            device,
            self._column(recipe),
        )
        write_rows(run.path("answers.csv"), rows)
        return evaluation

    def exportable(
        self, recipe: Recipe, run: Run, model: LossModule[LanguageModel], tokenizer: Tokenizer
    ) -> Exportable:
        """A language model, with the prompt format used in training."""
        measured, data = run.path("eval.json"), run.path("data", "card.json")
        evaluation = AnswersEvaluation.from_json(read_json(measured), measured)
        card = InstructionsCard.from_json(read_json(data), data)
        settings = recipe.instruct
        several = settings.style == "chat" and not settings.template
        readme = language_model_readme(
            run.name,
            evaluation.weights.name,
            [self.verdict(evaluation)],
            [
                "    from transformers import pipeline",
                '    answer = pipeline("text-generation", "DIRECTORY")',
                '    print(answer([{"role": "user", "content": "a question"}]))',
                "",
                *(SPECIAL_TOKENS if several else []),
                "The prompt, word for word as in training (here with a sample question):",
                "",
                *("    " + line for line in card.prompt.splitlines()),
            ],
        )
        conversations = [
            Conversation(messages, conversation_ids(record, tokenizer, settings))
            for record in read_records(run, "test", Instruction, Dialogue)[:COMPARED]
            if (messages := as_messages(record, settings))
        ]
        return Exportable(
            run.name,
            model.body,
            tokenizer,
            readme,
            card=Card("text-generation", evaluation.weights, evaluation.headline, card.name, evaluation.metrics),
            tokenizer_settings={"chat_template": chat_template(settings), "split_special_tokens": not several},
            generation={"do_sample": False, "max_new_tokens": settings.max_new_tokens},
            stop=[f"\n{marker}" for marker in markers(settings)],
            ollama_template=ollama_template(settings),
            conversations=conversations,
            held_out=lambda: _test_rows(recipe, run),
        )

    def tested_rows(self, run: Run) -> TestedRows:
        """The answer to each test question, with its score by the headline's metric."""
        path = run.path("eval.json")
        metric = AnswersEvaluation.from_json(read_json(path), path).headline.metric
        return tested_texts(run.path("answers.csv"), ("row", "question", "reference"), "answer", metric, answer_scores)

    def next_command(self, directory: Path) -> str:
        """Chat with the model."""
        return f"chat {directory}"

    def probe(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> Probe:
        """With a validation of one forward pass."""
        train, val = _examples(recipe, run, "train", "val")
        return probe_training(
            train, val, setup.settings, lambda own, other: build_job(setup.model, setup.settings, own, other, device)
        )

    def evaluation_seconds(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> float:
        """Estimated seconds to answer the test questions before and after training."""
        settings, gpt = recipe.instruct, setup.model.to(device).eval().body
        [test] = _examples(recipe, run, "test")
        prompts = test.prompts(prompt_room(gpt.config.context, settings))
        return writing_seconds(
            [len(ids) for ids in prompts],
            settings.max_new_tokens,
            lambda rows: generate_answers(gpt, [prompts[row] for row in rows], setup.tokenizer, TRIED, device),
        )


def _test_rows(recipe: Recipe, run: Run) -> Iterator[tuple[list[int], list[int]]]:
    """Inputs and targets of the test's examples."""
    [test] = _examples(recipe, run, "test")
    return map(test.example, range(len(test.rows)))


def _examples(recipe: Recipe, run: Run, *splits: str) -> list[Examples]:
    """The examples of a run's splits, with the tokens that ``prepare`` wrote."""
    max_length = run.result("prepare", WrittenPrepared).max_length
    return [
        make_examples(
            read_records(run, name, Instruction, Dialogue),
            load_tokens(run, name, Tokens),
            max_length,
            recipe.instruct.loss_on,
        )
        for name in splits
    ]


TASK = InstructTask()
