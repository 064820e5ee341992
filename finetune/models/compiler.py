"""Compile a C++ file for this machine, once: the library is kept in our cache."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from finetune.errors import RecipeError, RunError
from finetune.files import atomic_write, home

COMPILERS = ("c++", "g++", "clang++")
OPENMP = () if sys.platform == "darwin" else ("-fopenmp",)  # on a Mac, a second OpenMP runtime besides PyTorch's aborts
FLAGS = (("-march=native", *OPENMP), ("-march=native",), ("-mcpu=native",))  # the first that compiles is used


def compiled_library(source: Path, *options: str) -> ctypes.CDLL:
    """The library that a C++ file becomes. Raises RecipeError if no compiler succeeds.

    Uses the compiler in the environment variable CXX, which may include arguments, or else the first of COMPILERS.
    """
    said = []
    try:
        compiler = shlex.split(os.environ.get("CXX", "")) or list(filter(None, map(shutil.which, COMPILERS)))[:1]
    except ValueError as error:  # unclosed quote
        compiler, said = [], [f"CXX: {error}"]
    for flags in FLAGS if compiler else ():
        try:
            return _library(source, [*compiler, "-O3", *options, *flags, "-shared", "-fPIC"])
        except (OSError, subprocess.SubprocessError) as error:
            output = getattr(error, "stderr", None)  # bytes after a timeout
            said += _first_error(output if isinstance(output, str) and output else str(error))
    got = "; ".join(dict.fromkeys(said)) or "none was found"
    raise RecipeError(
        "compiled generation needs a C++ compiler",
        got=got,
        known=", ".join(COMPILERS) + ", or the one in CXX",
        do="Install one (for example the package g++), or leave out --compile (in Python, compiled=True).",
    )


def _library(source: Path, command: list[str]) -> ctypes.CDLL:
    """What the command makes of a file, or has made of the same file before on such a processor.

    Raises OSError or SubprocessError.
    """
    text = "\0".join([*command, source.read_text(encoding="utf-8"), _instructions()])
    kept = home() / "compiled" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.so"
    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if kept.exists() and _is_ours(kept):
            return ctypes.CDLL(str(kept))
    except OSError:  # no place to keep it, or a damaged file
        pass
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows locks a loaded library
        library = Path(folder) / "library.so"
        subprocess.run(
            [*command, str(source), "-o", str(library)], check=True, capture_output=True, text=True, timeout=120
        )
        found = ctypes.CDLL(str(library))
        with suppress(OSError, RunError), atomic_write(kept, "wb") as file:
            file.write(library.read_bytes())
        return found


def _is_ours(library: Path) -> bool:
    """Whether nobody else can have written it: it is code that will run."""
    folder, own = library.parent.stat(), library.stat()
    return not hasattr(os, "getuid") or (folder.st_uid == own.st_uid == os.getuid() and not folder.st_mode & 0o022)


def _instructions() -> str:
    """The instructions of this processor, for which a library is compiled."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = ("flags", "Features", "model name")
    return "\n".join(dict.fromkeys(own for own in lines if own.startswith(names))) or platform.processor()


def _first_error(output: str) -> list[str]:
    """The most informative line of a compiler's output, if any."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return [line for line in lines if "error" in line][:1] or lines[:1]
