"""Our cache directory, the mirror, and the expected hashes of files there and in the Hugging Face cache.

Nothing here uses the network. The safetensors format has no checksum and the hub's client compares only sizes, so
every file is hashed before it is used, wherever it comes from.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetune.console import say
from finetune.files import home, read_json, sha256_file, try_lock, write_json
from finetune.hub.registry import FileSpec

# The hub names a file's content by its sha256 (large files) or by its git blob id (small ones, a sha1).
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Expected:
    """A file's expected size and digest; None if unknown. source: pinned, recorded (by us, from the hub) or hub."""

    size_bytes: int | None
    digest: str | None
    source: str


def mirror_folder(name: str) -> Path | None:
    """The directory of a row in the mirror, whether or not it exists; None without ``FINETUNE_MIRROR``."""
    mirror = os.environ.get("FINETUNE_MIRROR")
    return Path(os.path.expanduser(mirror), name) if mirror else None


def mirrored(name: str, files: Iterable[str]) -> Path | None:
    """The mirror's directory of a row if it has all files of the row, else None."""
    folder = mirror_folder(name)
    return folder if folder and all((folder / file).exists() for file in files) else None


def mirror_lacks(name: str, files: Iterable[str]) -> str:
    """The row's files that are missing from the mirror, as the end of a sentence, or an empty string."""
    folder = mirror_folder(name)
    lacks = [file for file in files if folder and not (folder / file).exists()]
    return f"; {folder} lacks {', '.join(lacks)}" if lacks else ""


def vouched(path: Path) -> Expected | None:
    """The hub's digest of a file in the Hugging Face cache, where each file links to a blob named by its digest.

    Only one link is followed: the blob may itself be a link into a store that names files differently.
    """
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    return Expected(None, name, "hub") if DIGEST.fullmatch(name) else None


def expected(repo: str, revision: str, file: str, spec: FileSpec) -> Expected:
    """A file's expected content: as pinned in the registry, else as recorded when it matched the hub's hash."""
    if spec.sha256:
        return Expected(spec.size_bytes, spec.sha256, "pinned")
    record = _records().get(f"{repo}@{revision}/{file}")
    if record:
        return Expected(record["bytes"], record["sha256"], "recorded")
    return Expected(spec.size_bytes, None, "hub")


def record(repo: str, revision: str, file: str, path: Path) -> None:
    """Store the sha256 of a file without a pinned hash, once its content has matched the hub's hash."""
    sha256 = sha256_file(path)
    where = home() / "recorded-hashes.json"
    with one_at_a_time("recorded-hashes"):
        write_json(where, _records() | {f"{repo}@{revision}/{file}": {"bytes": path.stat().st_size, "sha256": sha256}})
    say(f"{repo} {file}: not pinned, but it matches the hub's hash; sha256 {sha256} is recorded in {where}")


@contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Let one process at a time run the block; the others wait, and then find its result.

    If our own cache is not writable, nothing is locked.
    """
    path = home() / "locks" / f"{re.sub(r'[^A-Za-z0-9._-]', '-', what)}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115
    except OSError:
        yield
        return
    with file:
        if not try_lock(file):
            say(f"another process is fetching {what}: waiting for it")
            while not try_lock(file):
                time.sleep(0.1)
        yield


def _records() -> dict:
    path = home() / "recorded-hashes.json"
    return read_json(path) if path.exists() else {}


def looks_like(start: bytes) -> str:
    """The apparent type of a wrong file, judging by its first bytes: a remark in brackets, or an empty string."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return " (an HTML page: a login page or a proxy's response)"
    if text.startswith(b"version https://git-lfs"):
        return " (a git-lfs pointer, not the file itself)"
    if text.startswith((b"pk\x03\x04", b"\x80\x02")):
        return " (a zip archive or a pickle)"
    return ""


def problem(path: Path, expect: Expected) -> str:
    """What is wrong with a file, or an empty string. `expect.digest` must be known."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            seems = looks_like(file.read(512))
        if expect.size_bytes is not None and size != expect.size_bytes:
            return f"{size:,} bytes, not {expect.size_bytes:,}{seems}"
        assert expect.digest is not None, "a file can only be checked against a digest"
        got = sha256_file(path) if len(expect.digest) == 64 else _git_blob_id(path)
        return "" if got == expect.digest else f"hash {got}, not {expect.digest}{seems}"
    except OSError as error:
        return error.strerror or str(error)


def _git_blob_id(path: Path) -> str:
    header = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: header).hexdigest()
