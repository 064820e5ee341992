"""Generation on a CPU with a decoding step compiled by this machine's C++ compiler.

Decoding a few sequences is memory-bound: every token reads all the weights. gpt.cpp reads them in order and once for all
sequences, from large pages, and has no framework overhead between two matrix products. Weights are fp32, bf16 or, from
few_bits.py, int8 or int4. ``compiled=False`` turns it off. Measured by benchmarks/generation.py.
"""

import ctypes
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from finetune.errors import RecipeError
from finetune.models.cache import KVCache
from finetune.models.compiler import compiled_library
from finetune.models.few_bits import Int4Linear
from finetune.models.large_pages import in_large_pages

if TYPE_CHECKING:
    from finetune.models.generate import Decoder
    from finetune.models.gpt import GPT, Block

SOURCE = Path(__file__).with_name("gpt.cpp")
TYPES = (torch.float32, torch.bfloat16)  # of the model's own weights
WORTH_IT = 5e9  # weights read over all steps, at which the time saved pays for the compilation, which is kept
MOST_ROWS = 8  # sequences for which this step is known to be faster than matrix products of torch


class CompiledGPT:
    """A GPT's ``generate.Decoder``, with a copy of the matrices that it multiplies with.

    output: the output matrix where it is not the token embedding. prompts: what processes the prompts; by default the
    model.
    """

    def __init__(self, model: "GPT", output: nn.Module | None = None, prompts: "Decoder[KVCache] | None" = None):
        self.model, self.prompts = model, prompts or model
        self.tensors = in_large_pages([None if own is None else own.detach() for own in in_order(model, output)])
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in self.tensors]
        self.pointers = (ctypes.c_void_p * len(addresses))(*addresses)
        self.step = compile_step(weight_bits(model))

    def new_cache(self, room: int) -> KVCache:
        """As in the model."""
        return self.model.new_cache(room)

    def next_logits(self, input_ids: Tensor, cache: KVCache) -> Tensor:
        """As ``GPT.next_logits``, which processes the prompt: (B, T) -> (B, V); in fp32 for a single token each."""
        B, T = input_ids.shape
        if T > 1 or not cache.length:
            return self.prompts.next_logits(input_ids, cache)
        config = self.model.config
        tokens = input_ids.contiguous()
        starts = torch.zeros(B, dtype=torch.int64) if cache.start is None else cache.start.to(torch.int64).contiguous()
        logits = torch.empty(B, config.vocab_size)
        self.step(
            self.pointers,
            B,
            config.layers,
            config.width,
            config.heads,
            config.vocab_size,
            config.norm_eps,
            tokens.data_ptr(),
            starts.data_ptr(),
            cache.length,
            cache.keys.data_ptr(),
            cache.values.data_ptr(),
            cache.room,
            logits.data_ptr(),
            torch.get_num_threads(),
        )
        cache.length += 1
        return logits


def in_order(model: "GPT", output: nn.Module | None) -> list[Tensor | None]:
    """A GPT's tensors in the layout that gpt.cpp expects."""

    def matrix(layer: Any) -> list[Tensor | None]:
        bias = getattr(layer, "bias", None)
        return [layer.weight, getattr(layer, "scale", None), None if bias is None else bias.float()]

    def norm(layer: nn.LayerNorm) -> list[Tensor | None]:
        return [layer.weight.float(), layer.bias.float()]

    tensors: list[Tensor | None] = [model.token_embedding.weight, model.position_embedding.weight]
    tensors += matrix(output or model.token_embedding)
    for block in cast("Iterable[Block]", model.blocks):  # all its blocks' type
        tensors += [*norm(block.norm_1), *matrix(block.attention.qkv), *matrix(block.attention.out)]
        tensors += [*norm(block.norm_2), *matrix(block.mlp.up), *matrix(block.mlp.down)]
    return [*tensors, *norm(model.norm)]


def weight_bits(model: "GPT") -> int:
    """The bits of a weight in the blocks' matrices."""
    layer = cast("Block", model.blocks[0]).mlp.up
    return 4 if isinstance(layer, Int4Linear) else 8 * layer.weight.element_size()


@functools.cache
def compile_step(bits: int) -> Callable[..., None]:
    """The function in gpt.cpp for weights of so many bits. Raises RecipeError if no compiler succeeds."""
    step = compiled_library(SOURCE, f"-DBITS={bits}").next_logits
    step.restype, step.argtypes = (
        None,
        [
            ctypes.c_void_p,
            *[ctypes.c_int64] * 5,
            ctypes.c_float,
            *[ctypes.c_void_p] * 2,
            ctypes.c_int64,
            *[ctypes.c_void_p] * 2,
            ctypes.c_int64,
            ctypes.c_void_p,
            ctypes.c_int,
        ],
    )
    return cast(Callable[..., None], step)


def worth_compiling(model: nn.Module, rows: int, max_new_tokens: int) -> bool:
    """Whether the step saves more time than it takes to compile it, for the first time, and to copy the weights."""
    weights = list(model.parameters())
    work = sum(own.numel() for own in weights) * max_new_tokens
    return rows <= MOST_ROWS and work >= WORTH_IT and weights[0].device.type == "cpu"


def check_compiled(model: nn.Module) -> None:
    """Raise RecipeError if the compiled step does not support this model."""
    weights, names = list(model.parameters()), [type(part).__name__ for part in model.modules()]
    adapted = [name for name in names if "Linear" in name and name != "Linear"]
    for said, got, known in (
        ("supports GPT-2 only, with adapters merged", _joined([names[0], *adapted]), ["GPT"]),
        ("runs on a CPU", _joined(tensor.device.type for tensor in weights), ["cpu"]),
        ("takes weights in fp32 or bf16", _joined(str(tensor.dtype) for tensor in weights), [*map(str, TYPES)]),
    ):
        if got not in known:
            raise RecipeError(
                f"compiled generation {said}", got=got, do="Leave out --compile (in Python, compiled=True)."
            )


def _joined(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))
