"""The task ``instruct``: answer an instruction. The loss covers answers and their end tokens, by default not prompts."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from finetune.console import Advance, progress, unseen
from finetune.evaluation.results import Start
from finetune.evaluation.written import References, WrittenTexts, loss_change
from finetune.models.gpt import IGNORE
from finetune.models.heads import LossModule
from finetune.models.transformer import LanguageModel
from finetune.recipe import Recipe, Train
from finetune.tasks.instruct.examples import Examples, prompt_room
from finetune.tasks.instruct.prompts import answer, markers, question
from finetune.tasks.instruct.records import InstructRecord
from finetune.tasks.instruct.score import NEAREST, UNTUNED, AnswerRow, AnswersEvaluation, score_answers
from finetune.tasks.writing import (
    Answer,
    column_slices,
    gather_test_rows,
    result_rows,
    spread_rows,
    write_answers,
    written_texts,
)
from finetune.tokenizer import Tokenizer
from finetune.training.batching import inference_batches
from finetune.training.collate import pad_ids
from finetune.training.job import Job
from finetune.training.sharing import share


def build_job(
    model: LossModule[LanguageModel], settings: Train, train: Examples, val: Examples, device: torch.device
) -> Job[LossModule[LanguageModel]]:
    """The job for the training loop; a row's weight is its number of supervised tokens."""

    def batch(rows: list[int]) -> tuple[Tensor, Tensor]:
        return collate(train, rows)

    def loss_sum(module: nn.Module, tensors: tuple[Tensor, ...]) -> Tensor:
        return module(*tensors)

    def validate(module: nn.Module) -> dict[str, float]:
        return measure(module, val, settings.tokens_per_pass, device)

    return Job(
        model,
        train.lengths(),
        [float(count) for count in train.loss_tokens()],
        batch,
        loss_sum,
        validate,
        name_row=lambda i: str(train.rows[i]),
        validation_tokens=sum(val.lengths()),
        pads=(0, IGNORE),
    )


def collate(part: Examples, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T), padded on the right. Padding is never a target, and causal attention never reads it."""
    inputs, targets = zip(*map(part.example, rows), strict=True)
    return pad_ids(inputs)[0], pad_ids(targets, IGNORE)[0]


def measure(model: nn.Module, part: Examples, budget: int, device: torch.device) -> dict[str, float]:
    """Loss per supervised token in nats, and perplexity."""
    groups = inference_batches(part.lengths(), budget)
    loss = float(answer_nll(model, part, groups, device).sum()) / sum(part.loss_tokens())
    return {"log_loss": loss, "perplexity": math.exp(min(loss, 50.0))}


@torch.no_grad()
def answer_nll(
    model: nn.Module, part: Examples, groups: list[list[int]], device: torch.device, advance: Advance = unseen
) -> np.ndarray:
    """The cross-entropy in nats of each group of rows, summed over its supervised tokens (one forward pass)."""

    def nll(rows: list[int]) -> float:
        return float(model(*(tensor.to(device) for tensor in collate(part, rows))))

    return np.array(share(groups, nll, lambda rows: advance(len(rows))))


def generate_answers(
    gpt: LanguageModel, prompts: list[list[int]], tokenizer: Tokenizer, max_new_tokens: int, device: torch.device
) -> list[Answer]:
    """The greedy continuation of each prompt, in order, up to an end token or `max_new_tokens`."""

    def write(rows: list[int]) -> Tensor:
        ids, last = pad_ids([prompts[i] for i in rows])
        mask = torch.arange(ids.shape[1]) <= last[:, None]  # (B, T)
        found = gpt.generate(
            ids.to(device), max_new_tokens, mask=mask.to(device), temperature=0.0, end=tokenizer.end_of_text
        )
        return found[:, ids.shape[1] :]

    return write_answers([len(ids) for ids in prompts], tokenizer, max_new_tokens, write, "answering")


def row_nll(model: nn.Module, part: Examples, device: torch.device, show: str) -> np.ndarray:
    """The cross-entropy of each row in nats (n,), summed over its supervised tokens."""
    with progress(show, len(part.rows), unit="records") as advance:
        return answer_nll(model, part, [[row] for row in range(len(part.rows))], device, advance)


def evaluate(
    before: LossModule[LanguageModel],
    after: LossModule[LanguageModel],
    tokenizer: Tokenizer,
    records: dict[str, list[InstructRecord]],
    examples: dict[str, Examples],
    recipe: Recipe,
    start: Start,
    device: torch.device,
    column: dict[int, str] | None = None,
) -> tuple[AnswersEvaluation, list[AnswerRow]]:
    """Answers to the test's questions, and losses on the answers of test and validation, before and after training.

    records: of all splits; examples: of test and validation. Records that do not fit are left out, as in training.
    column: row number -> value of the column evaluate.slice_by. Returns the evaluation (its seconds are filled in
    later) and all rows.
    """
    settings, resamples, seed = recipe.instruct, recipe.evaluate.resamples, recipe.train.seed
    models = {"before": before.eval(), "after": after.eval()}
    parts = {
        (name, on): replace(examples[name], learns=on)
        for on in dict.fromkeys(("answer", settings.loss_on, "words"))
        for name in ("test", "val")
    }
    nats = {
        key: {
            state: row_nll(model, part, device, f"losses, {' '.join((*key, state))}") for state, model in models.items()
        }
        for key, part in parts.items()
    }
    test = gather_test_rows(records, examples["test"].rows, question, answer)
    members = test.members | column_slices(recipe, column, [record.row for record in test.records])
    prompts = examples["test"].prompts(prompt_room(after.body.config.context, settings))
    written = {
        state: written_texts(
            generate_answers(model.body, prompts, tokenizer, settings.max_new_tokens, device),
            nats["test", "answer"][state],
        )
        for state, model in models.items()
    }
    scores = score_answers(
        written["after"],
        References(test.wanted, np.array(parts["test", "answer"].loss_tokens())),
        {UNTUNED: written["before"], NEAREST: WrittenTexts(test.nearest)},
        test.clean,
        markers(settings),
        resamples,
        seed,
        members,
    )
    rows = result_rows(AnswerRow, test, written)
    losses = [
        loss_change(name, nats[name, on], part.loss_tokens(), resamples, seed, on) for (name, on), part in parts.items()
    ]
    return AnswersEvaluation(
        **vars(start),
        **vars(scores),
        task="instruct",
        losses=losses,
        samples=spread_rows(rows),
        schema_version=1,
        seconds=0.0,
    ), rows
