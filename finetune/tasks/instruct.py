"""The task ``instruct``: answer an instruction. Prompts are read, answers and their ends are learnt."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from finetune.console import progress
from finetune.datasets.batching import micro_batches
from finetune.datasets.collate import pad_ids
from finetune.datasets.instructions import Instructions
from finetune.datasets.prompts import Piece, pieces, prompt, question
from finetune.datasets.splits import SPLITS, grouped_split, normalise_text
from finetune.errors import DataError
from finetune.models.gpt import GPT, IGNORE
from finetune.models.heads import NextToken
from finetune.recipe import Instruct, Recipe, Train
from finetune.tokenizer import Tokenizer
from finetune.training.loop import Job

ANSWER_TOKENS = 8192  # of prompts that are answered together


@dataclass(frozen=True)
class Examples:
    """Tokenized records of one split, each row with the token that should follow at every position."""

    rows: list[int]  # row numbers in the source file
    inputs: list[list[int]]
    targets: list[list[int]]  # IGNORE where nothing is learnt
    cut: list[int]  # rows whose prompt lost its beginning
    left_out: list[int]  # rows whose answer leaves no room for a prompt

    def learnt(self) -> list[int]:
        """Supervised tokens of each row."""
        return [sum(target != IGNORE for target in targets) for targets in self.targets]


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and whether it came to an end by itself."""

    text: str
    tokens: int
    ended: bool


def prepare(recipe: Recipe, source: Instructions, tokenizer: Tokenizer, context: int) -> tuple[dict, dict]:
    """Split the records; those with the same question stay together. Returns (records by split, data card)."""
    split, settings = recipe.split, recipe.instruct
    questions = [question(record) for record in source.records]
    parts = grouped_split(questions, [""] * len(questions), split.val_fraction, split.test_fraction, split.seed)
    empty = [name for name in SPLITS if not parts[name]]
    if empty:
        raise DataError(f"too few records: none for the {empty[0]} split",
                        got=f"{len(set(map(normalise_text, questions)))} different questions", do="Add some.")
    records = {name: [source.records[i] for i in parts[name]] for name in SPLITS}
    max_length = min(recipe.max_length or context, context)
    found = {name: examples(part, tokenizer, settings, max_length) for name, part in records.items()}
    for name, part in found.items():
        if not part.rows:
            raise DataError(f"no record of the {name} split fits into {max_length} tokens",
                            do="Give a larger max_length, or a model with a longer context.")
    lengths = [len(row) + 1 for part in found.values() for row in part.inputs]
    notes = [f"left out as malformed: {problem}" for problem in source.malformed]
    cut, left_out = (sum(len(getattr(part, name)) for part in found.values()) for name in ("cut", "left_out"))
    if cut:
        notes.append(f"{cut} prompts lost their beginning, to fit into {max_length} tokens")
    if left_out:
        notes.append(f"{left_out} records left out: the answer alone is longer than {max_length} tokens")
    card = {
        "records": len(source.records), "malformed": len(source.malformed),
        "style": "template" if settings.template else settings.style, "template": settings.template,
        "example": "".join(piece.text for piece in pieces(records["train"][0], settings)),
        "seed": split.seed, "different_questions": len(set(map(normalise_text, questions))),
        "splits": {name: {"records": len(records[name]), "tokens": sum(map(len, part.inputs)),
                          "learnt_tokens": sum(part.learnt())} for name, part in found.items()},
        "tokens": {"median": int(np.median(lengths)), "p95": int(np.percentile(lengths, 95)), "max": max(lengths),
                   "total": sum(lengths), "max_length": max_length, "cut": cut, "left_out": left_out},
        "notes": notes}
    return records, card


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
    ids = [token for own, _ in _encode(prompt(record, settings), tokenizer) for token in own]
    return ids[-max(context - settings.max_new_tokens, 1):]


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

    return Job(model, [len(row) for row in train.inputs], [float(count) for count in train.learnt()], batch, loss_sum,
               validate, name_row=lambda i: str(train.rows[i]))


def collate(part: Examples, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T), padded on the right; a pad is never a target and, to the right, never seen."""
    return pad_ids([part.inputs[i] for i in rows])[0], pad_ids([part.targets[i] for i in rows], IGNORE)[0]


def measure(model: nn.Module, part: Examples, budget: int, device: torch.device) -> dict[str, float]:
    """Loss per supervised token in nats, and perplexity."""
    groups = micro_batches(list(range(len(part.rows))), [len(row) for row in part.inputs], budget)
    loss = float(answer_nats(model, part, groups, device).sum()) / sum(part.learnt())
    return {"log_loss": loss, "perplexity": math.exp(min(loss, 50.0))}


@torch.no_grad()
def answer_nats(model: nn.Module, part: Examples, groups: list[list[int]], device: torch.device) -> np.ndarray:
    """The cross entropy of groups of rows in nats, each summed over its supervised tokens (one forward pass)."""
    return np.array([float(model(*(tensor.to(device) for tensor in collate(part, rows)))) for rows in groups])


def generate_answers(gpt: GPT, prompts: list[list[int]], tokenizer: Tokenizer, max_new_tokens: int,
                     device: torch.device) -> list[Answer]:
    """Each prompt's likeliest continuation, token by token, up to its end token or the budget; in their order."""
    answers: list[Answer | None] = [None] * len(prompts)
    lengths = [len(ids) + max_new_tokens for ids in prompts]
    with progress("answering", len(prompts), unit="prompts") as advance:
        for rows in micro_batches(list(range(len(prompts))), lengths, ANSWER_TOKENS):
            ids, last = pad_ids([prompts[i] for i in rows])
            mask = torch.arange(ids.shape[1]) <= last[:, None]  # (B, T)
            found = gpt.generate(ids.to(device), max_new_tokens, mask=mask.to(device), temperature=0.0,
                                 end=tokenizer.end_of_text)
            for i, new in zip(rows, found[:, ids.shape[1]:].tolist(), strict=True):
                answers[i] = _answer(new, tokenizer)
            advance(len(rows))
    return answers


def _answer(new: list[int], tokenizer: Tokenizer) -> Answer:
    ended = tokenizer.end_of_text in new
    own = new[:new.index(tokenizer.end_of_text)] if ended else new
    return Answer(tokenizer.decode_bytes(own).decode("utf-8", "replace").strip(), len(own), ended)
