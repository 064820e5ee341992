"""What an exercise is, and what a check finds."""

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
    """A learner's function returned something that no model could use."""


@dataclass(frozen=True)
class Verdict:
    """The result of a check. figures: lines that show it, such as what the model says with the learner's function."""

    right: bool
    figures: list[str]


@dataclass(frozen=True)
class Exercise:
    """A function to write.

    name: also the name of the learner's file and of the function, with underscores in place of dashes.
    check: gets the learner's function. solution: the package's own function, or another object of it.
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
        """The file that the learner gets."""
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
        raise WrongResultError(f"{what} returned no tensor", got=shorten(repr(value)), known=known)
    if tuple(value.shape) != shape:
        raise WrongResultError(f"{what} returned another shape", got=str(tuple(value.shape)), known=known)
    if (value.dtype == torch.bool) != boolean:
        raise WrongResultError(f"{what} returned another type", got=str(value.dtype), known=known)
    return value


def gap(found: Tensor, expected: Tensor) -> float:
    """The largest difference of two tensors; infinite where one of them is NaN."""
    if bool((found.isnan() != expected.isnan()).any()):
        return float("inf")
    return float((found - expected).abs().nan_to_num(nan=0.0).max())


def says(right: str, yours: str, model: str = "mini") -> list[str]:
    """What the model says, and what it says with the learner's function."""
    lines = [f"{model + ' says:':15}{shorten(right, 100)}", f"with yours:    {shorten(yours, 100)}"]
    return [*lines, "The likeliest words are the same here; their probabilities are not."] if right == yours else lines
