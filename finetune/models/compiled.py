"""Linear layers whose product with a single position is compiled on this machine, by its own C++ compiler.

One sequence at a time, a decoder waits for memory: it reads all weights for every token. matvec.cpp asks for them
before they are due, which oneDNN does not, and reads them as they are, without a packed copy. benchmarks/README.md has
the figures. In bf16 alone: in fp32 there is nothing to gain.
"""

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import RecipeError

SOURCE = Path(__file__).with_name("matvec.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (("-march=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",))  # the first that the compiler takes


class CompiledLinear(nn.Module):
    """What ``nn.Linear`` computes in bf16 on a CPU, without gradients; it shares the layer's weights."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.weight, self.bias, self.matvec = weight.detach().contiguous(), bias, build()

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        if x.numel() != x.shape[-1]:  # a prompt
            return F.linear(x, self.weight, self.bias)
        rows, columns = self.weight.shape
        x, y = x.contiguous(), x.new_empty(*x.shape[:-1], rows)
        bias = None if self.bias is None else self.bias.data_ptr()
        self.matvec(self.weight.data_ptr(), x.data_ptr(), bias, y.data_ptr(), rows, columns, torch.get_num_threads())
        return y


@functools.cache
def build():
    """Compile matvec.cpp, once a process, and give its function. Raises RecipeError where no compiler does it.

    The compiler is the environment's CXX, which may have arguments, else the first of COMPILERS.
    """
    compiler = shlex.split(os.environ.get("CXX", "")) or list(filter(None, map(shutil.which, COMPILERS)))[:1]
    said = []
    for flags in FLAGS if compiler else ():
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps what is loaded
            library = Path(folder) / "matvec.so"
            command = [*compiler, "-O3", *flags, "-shared", "-fPIC", str(SOURCE), "-o", str(library)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
                matvec = ctypes.CDLL(str(library)).matvec
            except (OSError, subprocess.SubprocessError) as error:
                said += _first_error(getattr(error, "stderr", None) or str(error))
                continue
        matvec.argtypes, matvec.restype = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 2 + [ctypes.c_int], None
        return matvec
    raise RecipeError("compiled generation needs a C++ compiler", got=said[0] if said else "none was found",
                      known=", ".join(COMPILERS) + ", or what CXX names",
                      do="Install one (for example the package g++), or leave out the compilation.")


def _first_error(output: str) -> list[str]:
    """The line of a compiler's output that tells most, if there is one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return [line for line in lines if "error" in line][:1] or lines[:1]


def check_compiled(weight: Tensor, rows: int) -> None:
    """Raise RecipeError where compiled layers cannot generate so many sequences with a matrix like this."""
    kind = str(weight.dtype).removeprefix("torch.")
    for said, got, known in (("writes one sequence at a time", rows, 1), ("runs on a CPU", weight.device.type, "cpu"),
                             ("takes weights in bf16", kind, "bfloat16")):
        if got != known:
            raise RecipeError(f"compiled generation {said}", got=str(got), do="Leave out the compilation.")
