"""Generation with weights in int8: a quarter of the bytes that a token reads, with activations in fp32.

Each row of a matrix is rounded to 255 levels of its own scale, the tied output matrix included; norms, biases and the
embeddings that are looked up stay as they are. The compiled step reads the bytes as they are; where there is no compiler,
torch widens each matrix as it comes, which gives the same numbers but saves no time. Off unless it is asked for, by
``dtype="int8"``; packed.py makes the decoder. Measured, with its cost in quality, by benchmarks/generation.py.
An export in HTML holds the same int8 rows, of the embeddings too.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

M = TypeVar("M", bound=nn.Module)
LEVELS = 127  # on each side of zero


class Int8Linear(nn.Module):
    """``nn.Linear`` without gradients, its weight rounded to int8 row by row."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.bias = bias
        with torch.no_grad():
            self.weight, self.scale = quantize_rows(weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        y = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest int8 of each number in units of its row's scale: (C_out, C_in) -> (C_out, C_in), (C_out,)."""
    scale = weight.abs().amax(dim=1) / LEVELS
    scale = torch.where(scale > 0, scale, 1)
    return (weight / scale[:, None]).round().to(torch.int8), scale


@torch.no_grad()
def rounded_copy(model: M) -> M:
    """A copy with every matrix, embeddings and heads included, rounded to what int8 with a scale per row can hold."""
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        if parameter.ndim == 2:
            levels, scale = quantize_rows(parameter)
            parameter.copy_(levels * scale[:, None])
    return twin
