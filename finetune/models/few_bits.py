"""Generation with weights in int8 or int4: a quarter or about a sixth of the bytes that a token reads.

int8: each row of a matrix is rounded to 255 levels of its own scale, the tied output matrix included. int4: each group of
32 weights of a row is rounded to 16 levels of its own scale, as llama.cpp's Q4_0 does; the output matrix stays int8, since
an error there goes straight into the logits. Norms, biases and the embeddings that are looked up stay fp32, as
do activations.

The compiled step reads the packed weights as they are; where there is no compiler, torch unpacks each matrix before its
product, which gives the same numbers but saves no time. Off by default: ``dtype="int8"`` or ``"int4"`` turns it on, and
packed.py makes the decoder. benchmarks/generation.py measures speed and the cost in quality. An export in HTML holds the
same int8 rows, of the embeddings too.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import RecipeError

M = TypeVar("M", bound=nn.Module)
LEVELS = 127  # of int8, on each side of zero
GROUP = 32  # weights that share a scale in int4
LOWEST = -8  # of the int4 levels, which end at 7


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


class Int4Linear(nn.Module):
    """``nn.Linear`` without gradients, its weight rounded to int4 in groups of 32 along each row.

    weight: (C_out, C_in / 32 * 18) bytes; each group is its bf16 scale, then 16 bytes, of which the low halves hold the
    levels of its first 16 weights and the high halves those of the rest: Q4_0's layout but for the type of the scale.
    Raises RecipeError unless C_in is a multiple of 32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.bias = bias
        with torch.no_grad():
            levels, scale = quantize_groups(weight)
            halves = levels.view(len(weight), -1, 2, GROUP // 2)
            packed = halves[:, :, 0] & 15 | halves[:, :, 1] << 4
            self.weight = torch.cat([scale[:, :, None].view(torch.int8), packed], dim=-1).flatten(1)

    def unpacked(self) -> Tensor:
        """The rounded weights in fp32, (C_out, C_in)."""
        groups = self.weight.view(len(self.weight), -1, 2 + GROUP // 2)
        scale, packed = groups[..., :2].contiguous().view(torch.bfloat16), groups[..., 2:]
        levels = torch.cat([packed << 4 >> 4, packed >> 4], dim=-1)  # shifts to the right keep the sign
        return (levels * scale.float()).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        return F.linear(x, self.unpacked().to(x.dtype), self.bias)


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The int4 levels of each group's weights and its scale: (C_out, C_in) -> int8 (C_out, C_in), bf16 (C_out, C_in / 32).

    The weight of a group that is largest in size has the level -8, so that the scale may be negative. Raises RecipeError
    unless C_in is a multiple of 32.
    """
    if weight.shape[1] % GROUP:
        raise RecipeError(
            "int4 weights need matrices whose width is a multiple of 32", got=f"{weight.shape[1]}", do="Use int8."
        )
    groups = weight.float().unflatten(1, (-1, GROUP))
    scale = (groups.gather(2, groups.abs().argmax(dim=2, keepdim=True)) / LOWEST).bfloat16()
    scale = torch.where(scale == 0, 1, scale)
    levels = (groups / scale).round().clamp(LOWEST, -LOWEST - 1)
    return levels.to(torch.int8).flatten(1), scale[:, :, 0]


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
