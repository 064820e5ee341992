"""The task ``instruct``: answer an instruction. Prompts are read, answers and their ends are learnt."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from finetune.console import progress
from finetune.evaluation.results import Start
from finetune.evaluation.written import References, WrittenTexts, loss_change
from finetune.models.gpt import GPT, IGNORE
from finetune.models.heads import NextToken
from finetune.recipe import Recipe, Train
from finetune.tasks.instruct.prompts import Piece, answer, markers, pieces, prompt, question
from finetune.tasks.instruct.score import NEAREST, UNTUNED, AnswerRow, AnswersEvaluation, score_answers
from finetune.tasks.instruct.settings import Instruct
from finetune.tasks.writing import (
    Answer,
    gather_test_rows,
    result_rows,
    spread_rows,
    write_answers,
    written_texts,
)
from finetune.tokenizer import Tokenizer
from finetune.training.batching import micro_batches
from finetune.training.collate import pad_ids
from finetune.training.loop import Job


@dataclass(frozen=True)
class Examples:
    """Tokenized records of one split, each row with the token that should follow at every position."""

    rows: list[int]  # row numbers in the source file
    inputs: list[list[int]]
    targets: list[list[int]]  # IGNORE where nothing is learnt
    cut: list[int]  # rows whose prompt lost its beginning
    left_out: list[int]  # rows whose answer leaves no room for a prompt

    def lengths(self) -> list[int]:
        """Tokens of each row that are read."""
        return [len(row) for row in self.inputs]

    def take(self, positions: list[int]) -> "Examples":
        """Some of the rows."""
        return Examples(*([own[i] for i in positions] for own in (self.rows, self.inputs, self.targets)), [], [])

    def without(self, token: int) -> "Examples":
        """The same with nothing to learn where this token should follow."""
        targets = [[IGNORE if target == token else target for target in row] for row in self.targets]
        return replace(self, targets=targets)

    def learnt(self) -> list[int]:
        """Supervised tokens of each row."""
        return [sum(target != IGNORE for target in targets) for targets in self.targets]


def examples(records: list[dict], tokenizer: Tokenizer, settings: Instruct, max_length: int) -> Examples:
    """Tokenize one split's records into at most `max_length` inputs; see ``Examples`` for what does not fit."""
    found = Examples([], [], [], [], [])
    for record in records:
        fitted = _fit(_encode(pieces(record, settings), tokenizer), max_length + 1)
        if fitted is None:
            found.left_out.append(record["row"])
            continue
        ids, learnt, over = fitted
        if over:
            found.cut.append(record["row"])
        found.rows.append(record["row"])
        found.inputs.append(ids[:-1])
        found.targets.append([token if own or settings.loss_on == "all" else IGNORE
                              for token, own in zip(ids[1:], learnt[1:], strict=True)])
    return found


def prompt_ids(record: dict, tokenizer: Tokenizer, settings: Instruct, context: int) -> list[int]:
    """What a model reads before it answers, cut from the left so that the answer has its room in the context."""
    return conversation_ids(record, tokenizer, settings)[-prompt_room(context, settings):]


def prompt_room(context: int, settings: Instruct) -> int:
    """Tokens of a prompt that leave room for an answer: half of the context at least; a longer answer then slides."""
    return max(context - settings.max_new_tokens, context // 2)


def conversation_ids(record: dict, tokenizer: Tokenizer, settings: Instruct) -> list[int]:
    """Everything before a record's last answer, the answers before it with their ends."""
    return [token for own, _ in _encode(prompt(record, settings), tokenizer) for token in own]


def _encode(parts: Iterable[Piece], tokenizer: Tokenizer) -> list[tuple[list[int], bool]]:
    """(ids, whether they are an answer) of each piece; an answer is closed by the end-of-text token.

    Every piece is tokenized by itself, so no token stands with one byte in the prompt and one in the answer.
    """
    return [(tokenizer.encode(piece.text) + [tokenizer.end_of_text] * piece.answer, piece.answer) for piece in parts]


def _fit(parts: list[tuple[list[int], bool]], room: int) -> tuple[list[int], list[bool], int] | None:
    """The last `room` tokens: (ids, whether each is of a whole answer, tokens cut off).

    None where the last answer leaves no token of its prompt.
    """
    if len(parts[-1][0]) >= room:
        return None
    over = max(sum(len(own) for own, _ in parts) - room, 0)
    ids: list[int] = []
    learnt: list[bool] = []
    for own, is_answer in parts:
        learnt += [is_answer and len(ids) > over] * len(own)  # an earlier answer that is cut is only read
        ids += own
    return ids[over:], learnt[over:], over


def build_job(model: NextToken, settings: Train, train: Examples, val: Examples, device: torch.device) -> Job:
    """Everything the loop needs; a row weighs as many tokens as it has to learn."""
    def batch(rows: list[int]):
        return collate(train, rows)

    def loss_sum(module: nn.Module, tensors):
        return module(*tensors)

    def validate(module: nn.Module) -> dict[str, float]:
        return measure(module, val, settings.micro_batch_tokens, device)

    return Job(model, train.lengths(), [float(count) for count in train.learnt()], batch, loss_sum,
               validate, name_row=lambda i: str(train.rows[i]), validation_tokens=sum(val.lengths()))


def collate(part: Examples, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T), padded on the right; a pad is never a target and, to the right, never seen."""
    return pad_ids([part.inputs[i] for i in rows])[0], pad_ids([part.targets[i] for i in rows], IGNORE)[0]


def measure(model: nn.Module, part: Examples, budget: int, device: torch.device) -> dict[str, float]:
    """Loss per supervised token in nats, and perplexity."""
    groups = micro_batches(list(range(len(part.rows))), part.lengths(), budget)
    loss = float(answer_nats(model, part, groups, device).sum()) / sum(part.learnt())
    return {"log_loss": loss, "perplexity": math.exp(min(loss, 50.0))}


@torch.no_grad()
def answer_nats(model: nn.Module, part: Examples, groups: list[list[int]], device: torch.device) -> np.ndarray:
    """The cross entropy of groups of rows in nats, each summed over its supervised tokens (one forward pass)."""
    return np.array([float(model(*(tensor.to(device) for tensor in collate(part, rows)))) for rows in groups])


def generate_answers(gpt: GPT, prompts: list[list[int]], tokenizer: Tokenizer, max_new_tokens: int,
                     device: torch.device) -> list[Answer]:
    """Each prompt's likeliest continuation, token by token, up to its end token or the budget; in their order."""
    def write(rows: list[int]) -> Tensor:
        ids, last = pad_ids([prompts[i] for i in rows])
        mask = torch.arange(ids.shape[1]) <= last[:, None]  # (B, T)
        found = gpt.generate(ids.to(device), max_new_tokens, mask=mask.to(device), temperature=0.0,
                             end=tokenizer.end_of_text)
        return found[:, ids.shape[1]:]
    return write_answers([len(ids) for ids in prompts], tokenizer, max_new_tokens, write, "answering")


def row_nats(model: nn.Module, part: Examples, device: torch.device, show: str) -> np.ndarray:
    """The cross entropy of each row in nats (n,), summed over its supervised tokens."""
    found = []
    with progress(show, len(part.rows), unit="records") as advance:
        for row in range(len(part.rows)):
            found.append(answer_nats(model, part, [[row]], device))
            advance(1)
    return np.concatenate(found)


def evaluate(before: NextToken, after: NextToken, tokenizer: Tokenizer, records: dict[str, list[dict]],
             recipe: Recipe, max_length: int, start: Start, device: torch.device) -> tuple[AnswersEvaluation,
                                                                                           list[AnswerRow]]:
    """Answers to the test's questions, and losses on the answers of test and validation, before and after training.

    Records that do not fit are left out, as in training. Returns the evaluation, its time still open, and all rows.
    """
    settings, resamples, seed = recipe.instruct, recipe.evaluate.resamples, recipe.train.seed
    models = {"before": before.eval(), "after": after.eval()}
    parts = {(name, on): examples(records[name], tokenizer, settings.model_copy(update={"loss_on": on}), max_length)
             for on in dict.fromkeys(("answer", settings.loss_on)) for name in ("test", "val")}
    parts |= {(name, "words"): parts[name, "answer"].without(tokenizer.end_of_text) for name in ("test", "val")}
    nats = {key: {state: row_nats(model, part, device, f"losses, {' '.join((*key, state))}")
                  for state, model in models.items()} for key, part in parts.items()}
    test = gather_test_rows(records, parts["test", "answer"].rows, question, answer)
    prompts = [prompt_ids(record, tokenizer, settings, after.gpt.config.context) for record in test.records]
    written = {state: written_texts(generate_answers(model.gpt, prompts, tokenizer, settings.max_new_tokens, device),
                                    nats["test", "answer"][state]) for state, model in models.items()}
    scores = score_answers(
        written["after"], References(test.wanted, np.array(parts["test", "answer"].learnt())),
        {UNTUNED: written["before"], NEAREST: WrittenTexts(test.nearest)}, test.clean, markers(settings), resamples,
        seed)
    rows = result_rows(AnswerRow, test, written)
    losses = [loss_change(name, nats[name, on], part.learnt(), resamples, seed, on)
              for (name, on), part in parts.items()]
    return AnswersEvaluation(**vars(start), **vars(scores), task="instruct", losses=losses, samples=spread_rows(rows),
                             schema_version=1, seconds=0.0), rows
