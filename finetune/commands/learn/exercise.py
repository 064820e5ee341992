"""The types of an exercise and of the result of its check."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.errors import FinetuneError, shorten

CLOSE = 1e-3  # largest difference of logits that counts as equal; wrong ones differ by more than 0.1


class WrongResultError(FinetuneError):
    """A learner's function returned something of the wrong type or shape."""


@dataclass(frozen=True)
class Verdict:
    """The result of a check. figures: lines that show it, such as the model's output with the learner's function."""

    right: bool
    figures: list[str]


@dataclass(frozen=True)
class Exercise:
    """A function to write.

    name: with underscores instead of dashes, also the name of the learner's file and function.
    check: called with the learner's function. solution: the function or class of this package that does the same.
    """

    name: str
    title: str
    hint: str
    check: Callable[[Callable[..., Any]], Verdict]
    solution: Any

    @property
    def function(self) -> str:
        """The name of the function."""
        return self.name.replace("-", "_")

    def text(self, number: int) -> str:
        """The text of the learner's file."""
        text = (Path(__file__).parent / "exercises" / f"{self.function}.txt").read_text(encoding="utf-8")
        return text.replace("{number}", str(number))

    def where_solved(self) -> str:
        """File and line of the package's own function."""
        source = inspect.getsourcefile(self.solution)
        assert source is not None, "a solution is a function of this package"
        root = Path(__file__).parents[3]
        _, line = inspect.getsourcelines(self.solution)
        return f"{Path(source).resolve().relative_to(root).as_posix()}:{line} ({self.solution.__qualname__})"


def tensor_from(value: object, shape: tuple[int, ...], what: str, boolean: bool = False) -> Tensor:
    """The value as a tensor of this shape. Raises WrongResultError for anything else."""
    kind = "a tensor of true and false" if boolean else "a tensor of numbers"
    known = f"{kind}, of shape {shape}"
    if not isinstance(value, Tensor):
        raise WrongResultError(f"{what} did not return a tensor", got=shorten(repr(value)), known=known)
    if tuple(value.shape) != shape:
        raise WrongResultError(f"{what} returned a tensor of the wrong shape", got=str(tuple(value.shape)), known=known)
    if (value.dtype == torch.bool) != boolean:
        raise WrongResultError(f"{what} returned a tensor of the wrong type", got=str(value.dtype), known=known)
    return value


def gap(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference of two tensors; infinite if it is NaN."""
    if bool((found.isnan() != expected.isnan()).any()):
        return float("inf")
    return float((found - expected).abs().nan_to_num(nan=0.0).max())


def says(right: str, yours: str, model: str = "mini") -> list[str]:
    """Two lines: the model's output, and its output with the learner's function."""
    lines = [f"{model + ' says:':15}{shorten(right, 100)}", f"with yours:    {shorten(yours, 100)}"]
    return [*lines, "The likeliest words are the same here; their probabilities are not."] if right == yours else lines
