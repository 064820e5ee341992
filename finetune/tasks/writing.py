"""What models write, batch by batch: the part that the tasks with written answers share."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from finetune.console import progress
from finetune.errors import RecipeError
from finetune.recipe import Recipe
from finetune.tasks.base import Prepared
from finetune.tokenizer import Tokenizer
from finetune.training.batching import micro_batches


@dataclass(frozen=True)
class WrittenPrepared(Prepared):
    """The result of ``prepare``; ``splits`` counts the records that fit."""

    records: int
    max_length: int  # tokens that a model reads
    end: int  # the id of the end-of-text token


def refuse_balanced(recipe: Recipe) -> None:
    """Raise RecipeError where rows are to be drawn by their labels, which these have not."""
    if recipe.split.protocol == "balanced":
        raise RecipeError("split.protocol=balanced needs labels", known="grouped, ordered")


TOKENS = 8192  # of prompts and answers that are written together


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and whether it came to an end by itself."""

    text: str
    tokens: int
    ended: bool


def answer_groups(lengths: list[int], max_new_tokens: int, beams: int = 1) -> list[list[int]]:
    """Which prompts, of so many tokens each, are answered together."""
    return micro_batches(list(range(len(lengths))), [length + max_new_tokens for length in lengths], TOKENS // beams)


def write_answers(lengths: list[int], tokenizer: Tokenizer, max_new_tokens: int,
                  write: Callable[[list[int]], Tensor], show: str, beams: int = 1) -> list[Answer]:
    """An answer to each prompt, in their order.

    lengths: tokens of each prompt. write: numbers of prompts -> the new tokens (B, T) of each.
    """
    answers: dict[int, Answer] = {}
    with progress(show, len(lengths), unit="prompts") as advance:
        for rows in answer_groups(lengths, max_new_tokens, beams):
            for row, new in zip(rows, write(rows).tolist(), strict=True):
                answers[row] = _answer(new, tokenizer)
            advance(len(rows))
    return [answers[row] for row in range(len(lengths))]


def _answer(new: list[int], tokenizer: Tokenizer) -> Answer:
    ended = tokenizer.end_of_text in new
    own = new[:new.index(tokenizer.end_of_text)] if ended else new
    return Answer(tokenizer.decode_bytes(own).decode("utf-8", "replace").strip(), len(own), ended)
