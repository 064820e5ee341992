"""Atomic file writes, and hashes."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from finetune.errors import RunError


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(path: Path) -> str:
    """The sha256 of a file, or one over the names and hashes of all files below a folder."""
    if not path.is_dir():
        return sha256_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return sha256_json([[file.relative_to(path).as_posix(), sha256_file(file)] for file in files])


def sha256_json(value: object) -> str:
    """The sha256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sync_directory(directory: Path) -> None:
    """Flush a directory's entries, so that a rename survives a power cut (no-op on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; flush and rename it when the block ends without error."""
    path = Path(path)
    if path.is_dir():  # fail before any work; "." has no name for a temporary file
        raise RunError(f"cannot write {path}", got="a directory", do="Give the name of a file.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise RunError(
            f"cannot write {path}",
            got=error.strerror or str(error),
            do="Free some space or choose a directory that can be written.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def replace_directory(directory: Path, new: Path) -> None:
    """Rename `new` to `directory`; the old directory is deleted only after that succeeds."""
    old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
    if directory.exists():
        directory.rename(old)
    try:
        new.rename(directory)
    except OSError:
        if old.exists():
            old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, value: object) -> None:
    """Write strict JSON (no NaN) atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises RunError with the path if it is damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"cannot read {path}", got=str(error)) from error
