"""Atomic file writes, hashes, manifests that reveal damaged files, and the location of our cache."""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape as glob_escape
from pathlib import Path
from typing import IO, Any

from finetune.errors import FinetuneError, RunError

MANIFEST = "MANIFEST.json"  # name -> [bytes, sha256] of the other files of a directory
_LEFTOVER = re.compile(r"\.(.+)\.(\d+)\.(tmp|old)")  # what ``temporary_path`` and ``replace_directory`` name
_writes = True  # whether this process writes files


def home() -> Path:
    """Our own cache: ``FINETUNE_HOME``, else the platform's cache directory."""
    import platformdirs

    path = os.environ.get("FINETUNE_HOME") or platformdirs.user_cache_dir("gpt2-finetune", appauthor=False)
    path = os.path.expanduser(path)
    if path.startswith("~"):  # the user has no home directory
        import tempfile

        path = os.path.join(tempfile.gettempdir(), "gpt2-finetune")
    return Path(path)


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
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block, which often names no file, into a RunError that names `path`."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {path}",
            got=error.strerror or str(error),
            do="Free some space or choose a directory that can be written.",
        ) from error


def temporary_path(path: Path) -> Path:
    """A name beside `path` for a draft of it by this process; what killed processes left there is cleared."""
    path = Path(path)
    for other in path.parent.glob(f".{glob_escape(path.name)}.*"):
        if is_leftover(other):
            clear_leftover(other)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def is_leftover(path: Path) -> bool:
    """Whether this is the draft of a process that no longer exists on this machine."""
    named = _LEFTOVER.fullmatch(path.name)
    if not named:
        return False
    import psutil

    return not psutil.pid_exists(int(named[2][:9]))


def clear_leftover(path: Path) -> None:
    """Delete a dead process's draft. A directory that it had moved aside and not yet replaced is put back."""
    named = _LEFTOVER.fullmatch(path.name)
    assert named is not None, "a leftover"
    place = path.with_name(named[1])
    if named[3] == "old" and not place.exists():
        path.rename(place)
    else:
        remove(path)


def remove(path: Path) -> None:
    """Delete a file, a link or a whole directory, if it is there; a link is never followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_nothing() -> None:
    """From now on ``atomic_write`` writes nothing in this process: another process of the command writes the same."""
    global _writes
    _writes = False


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; flush and rename it when the block ends without error."""
    path = Path(path)
    if not _writes:
        with open(os.devnull, mode, encoding=None if "b" in mode else "utf-8") as nowhere:
            yield nowhere
        return
    if path.is_dir():  # fail before any work; "." has no name for a temporary file
        raise RunError(f"cannot write {path}", got="a directory", do="Give the name of a file.")
    temporary = temporary_path(path)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            with open(temporary, mode.replace("w", "x"), encoding=encoding, newline=newline) as file:  # follows no link
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def open_append(path: Path) -> IO[str]:
    """Open a text file to append to, without following a symbolic link in its place."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    return open(os.open(path, flags, 0o666), "a", encoding="utf-8", errors="replace")


def try_lock(file: IO[Any]) -> bool:
    """Lock an open file for this process, until it is closed; False if another process holds the lock."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def replace_directory(directory: Path, new: Path) -> None:
    """Rename `new` to `directory`; the old directory is deleted only after that succeeds."""
    old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
    try:
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
    except BaseException:  # also an interrupt
        if old.exists() and not directory.exists():
            old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_manifest(directory: Path) -> None:
    """Flush every file of a directory, and record their sizes and hashes; a README may be edited later."""
    entries = {}
    for path in sorted(path for path in directory.iterdir() if path.is_file()):
        if path.suffix != ".md" and path.name != MANIFEST:
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
            entries[path.name] = [path.stat().st_size, sha256_file(path)]
    write_json(directory / MANIFEST, entries)


def damage(directory: Path) -> str:
    """How a directory differs from its manifest, or an empty string."""
    try:
        manifest = read_json(directory / MANIFEST)
        if not manifest:
            return f"{MANIFEST} names no file"
        for name, (size, digest) in manifest.items():
            path = directory / Path(name).name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size or sha256_file(path) != digest:
                return f"{name} has changed since it was written"
    except (FinetuneError, ValueError, TypeError, AttributeError, OSError):
        return f"no readable {MANIFEST}"
    return ""


def write_tensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the permissions of any new file; by default only its owner can read it."""
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata=metadata)
    path.chmod(mode)


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
