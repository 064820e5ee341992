"""Generation on a CPU with a decoding step compiled by this machine's C++ compiler.

Decoding a few sequences is memory-bound: every token reads all the weights. gpt.cpp prefetches them, reads them once for
all sequences, and has no framework overhead between two matrix products. Weights are fp32, bf16 or, from int8.py, int8.
Without this file everything works as before, by ``compiled=False``. Measured by benchmarks/generation.py.
"""

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from finetune.errors import RecipeError
from finetune.models.cache import KVCache

if TYPE_CHECKING:
    from finetune.models.generate import Decoder
    from finetune.models.gpt import GPT, Block

SOURCE = Path(__file__).with_name("gpt.cpp")
COMPILERS = ("c++", "g++", "clang++")
OPENMP = () if sys.platform == "darwin" else ("-fopenmp",)  # on a Mac, a second OpenMP runtime besides PyTorch's aborts
FLAGS = (("-march=native", *OPENMP), ("-march=native",), ("-mcpu=native",))  # the first that compiles is used
TYPES = (torch.float32, torch.bfloat16)  # of the model's own weights


class CompiledGPT:
    """A GPT's ``generate.Decoder``; it shares the model's weights.

    output: the output matrix where it is not the token embedding. prompts: what processes the prompts; by default the
    model.
    """

    def __init__(self, model: "GPT", output: nn.Module | None = None, prompts: "Decoder[KVCache] | None" = None):
        self.model, self.prompts = model, prompts or model
        self.tensors = [None if own is None else own.detach().contiguous() for own in in_order(model, output)]
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in self.tensors]
        self.pointers = (ctypes.c_void_p * len(addresses))(*addresses)
        weight = cast(Tensor, (output or model.token_embedding).weight)
        self.step = compile_step(weight.element_size())

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


@functools.cache
def compile_step(weight_bytes: int) -> Callable[..., None]:
    """Compile gpt.cpp once per process and width of weights: its function. Raises RecipeError if no compiler succeeds.

    Uses the compiler in the environment variable CXX, which may include arguments, or else the first of COMPILERS.
    """
    said = []
    try:
        compiler = shlex.split(os.environ.get("CXX", "")) or list(filter(None, map(shutil.which, COMPILERS)))[:1]
    except ValueError as error:  # unclosed quote
        compiler, said = [], [f"CXX: {error}"]
    for flags in FLAGS if compiler else ():
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows locks a loaded library
            library = Path(folder) / "gpt.so"
            command = [
                *compiler,
                "-O3",
                f"-DBYTES={weight_bytes}",
                *flags,
                "-shared",
                "-fPIC",
                str(SOURCE),
                "-o",
                str(library),
            ]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
                step = ctypes.CDLL(str(library)).next_logits
            except (OSError, subprocess.SubprocessError) as error:
                output = getattr(error, "stderr", None)  # bytes after a timeout
                said += _first_error(output if isinstance(output, str) and output else str(error))
                continue
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
        return step
    got = "; ".join(dict.fromkeys(said)) or "none was found"
    raise RecipeError(
        "compiled generation needs a C++ compiler",
        got=got,
        known=", ".join(COMPILERS) + ", or the one in CXX",
        do="Install one (for example the package g++), or leave out the compilation.",
    )


def _first_error(output: str) -> list[str]:
    """The most informative line of a compiler's output, if any."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return [line for line in lines if "error" in line][:1] or lines[:1]


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
            raise RecipeError(f"compiled generation {said}", got=got, do="Leave out the compilation.")


def _joined(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))
