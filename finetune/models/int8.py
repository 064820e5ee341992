"""Generation with weights in int8: a quarter of the bytes that a token reads, with activations in fp32.

Each row of a matrix is rounded to 255 levels of its own scale, the tied output matrix included; norms, biases and the
embeddings that are looked up stay as they are. The compiled step reads the bytes as they are; where there is no compiler,
torch widens each matrix as it comes, which gives the same numbers but saves no time. Off unless it is asked for, by
``dtype="int8"``. Measured, with its cost in quality, by benchmarks/generation.py.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import RecipeError
from finetune.models.cache import KVCache
from finetune.models.compiled import CompiledGPT, check_compiled
from finetune.models.generate import Decoder
from finetune.models.packed import PackedDecoder, copy_with_layers

if TYPE_CHECKING:
    from finetune.models.gpt import GPT
    from finetune.models.transformer import LanguageModel

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


def int8_decoder(model: "LanguageModel", compiled: bool = True) -> Decoder[KVCache]:
    """What generates with int8 copies of a model's matrices. compiled: whether to compile the step, where that works.

    Raises RecipeError unless the weights are fp32 on a CPU.
    """
    from finetune.models.gpt import GPT

    weight = model.token_embedding.weight
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise RecipeError(
            "int8 weights are made from fp32 weights on a CPU",
            got=f"{weight.dtype} on {weight.device.type}",
            do='Convert the model with model.float().to("cpu") first.',
        )
    twin, output = copy_with_layers(model, Int8Linear)
    plain: Decoder[KVCache] = PackedDecoder(twin, output)
    if not compiled or type(model) is not GPT:
        return plain
    try:
        check_compiled(model)
        return CompiledGPT(cast("GPT", twin), output, plain)
    except RecipeError:  # no compiler, or adapters that are not merged
        return plain
