"""Single-sequence generation on a CPU with a decoding step compiled by this machine's C++ compiler.

Decoding one sequence is memory-bound: every token reads all the weights. gpt.cpp prefetches them, reads them without a
packed copy, and has no framework overhead between two matrix products. Only bf16 is supported, because fp32 gains
little. benchmarks/README.md has the figures.
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
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from finetune.errors import RecipeError
from finetune.models.cache import KVCache

if TYPE_CHECKING:
    from finetune.models.gpt import GPT, Block

SOURCE = Path(__file__).with_name("gpt.cpp")
COMPILERS = ("c++", "g++", "clang++")
OPENMP = () if sys.platform == "darwin" else ("-fopenmp",)  # on a Mac, a second OpenMP runtime besides PyTorch's aborts
FLAGS = (("-march=native", *OPENMP), ("-march=native",), ("-mcpu=native",))  # the first that compiles is used


class CompiledGPT:
    """A GPT's ``generate.Decoder`` for one sequence in bf16; it shares the model's weights."""

    def __init__(self, model: "GPT"):
        self.model, self.step = model, compile_step()
        self.tensors = [tensor.detach().contiguous() for tensor in in_order(model)]
        self.pointers = (ctypes.c_void_p * len(self.tensors))(*(tensor.data_ptr() for tensor in self.tensors))

    def new_cache(self, room: int) -> KVCache:
        """As in the model."""
        return self.model.new_cache(room)

    def next_logits(self, input_ids: Tensor, cache: KVCache) -> Tensor:
        """As ``GPT.next_logits``, which processes the prompt: (1, T) -> (1, V); in fp32 for a single token."""
        if input_ids.shape[1] > 1 or not cache.length:
            return self.model.next_logits(input_ids, cache)
        config = self.model.config
        logits = torch.empty(1, config.vocab_size)
        self.step(
            self.pointers,
            config.layers,
            config.width,
            config.heads,
            config.vocab_size,
            config.norm_eps,
            int(input_ids),
            cache.length,
            cache.keys.data_ptr(),
            cache.values.data_ptr(),
            cache.room,
            logits.data_ptr(),
            torch.get_num_threads(),
        )
        cache.length += 1
        return logits


def in_order(model: "GPT") -> list[Tensor]:
    """A GPT's tensors in the layout that gpt.cpp expects."""
    tensors = [model.token_embedding.weight, model.position_embedding.weight]
    for block in cast("Iterable[Block]", model.blocks):  # all its blocks' type
        for part in (
            block.norm_1,
            block.attention.qkv,
            block.attention.out,
            block.norm_2,
            block.mlp.up,
            block.mlp.down,
        ):
            tensors += [part.weight, part.bias]
    return [*tensors, model.norm.weight, model.norm.bias]


@functools.cache
def compile_step() -> Callable[..., None]:
    """Compile gpt.cpp once per process and return its function. Raises RecipeError if no compiler succeeds.

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
            command = [*compiler, "-O3", *flags, "-shared", "-fPIC", str(SOURCE), "-o", str(library)]
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
                *[ctypes.c_int64] * 4,
                ctypes.c_float,
                *[ctypes.c_int64] * 2,
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


def check_compiled(model: nn.Module, rows: int) -> None:
    """Raise RecipeError if the compiled step does not support this model or number of sequences."""
    weights, names = list(model.parameters()), [type(part).__name__ for part in model.modules()]
    adapted = [name for name in names if "Linear" in name and name != "Linear"]
    for said, got, known in (
        ("writes one sequence at a time", rows, 1),
        ("supports GPT-2 only, with adapters merged", _joined([names[0], *adapted]), "GPT"),
        ("runs on a CPU", _joined(tensor.device.type for tensor in weights), "cpu"),
        ("takes weights in bf16", _joined(str(tensor.dtype) for tensor in weights), "torch.bfloat16"),
    ):
        if got != known:
            raise RecipeError(
                f"compiled generation {said}",
                got=str(got),
                do="Leave out the compilation" + (", or ask for one beam and one sample." if rows > 1 else "."),
            )


def _joined(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))
