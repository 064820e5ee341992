"""A run: one directory, one process at a time, a record for each finished stage."""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from finetune import __version__
from finetune.config import validate
from finetune.errors import RecipeError, RunError
from finetune.files import atomic_write, read_json, sha256_file, sha256_json, write_json
from finetune.machine import git_commit, hardware, peak_memory_bytes, versions
from finetune.recipe import Recipe
from finetune.records import Record, StageRecord

R = TypeVar("R", bound=Record)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = {"con", "prn", "aux", "nul", *(f"{device}{i}" for device in ("com", "lpt") for i in range(1, 10))}


class Run:
    """One output directory and what stands in it.

    memory: what a stage hands to later ones of the same process, so that it is not read from disk again.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        self.name = self.directory.name
        self.memory: dict[str, Any] = {}

    @classmethod
    def named(cls, root: Path, name: str) -> "Run":
        """The run of that name under `root`. Raises RunError for a name that is no plain file name."""
        if not NAME.fullmatch(name) or name.endswith(".") or name.split(".")[0].lower() in RESERVED:
            raise RunError(
                "a run's name is not usable",
                got=repr(name),
                known="letters, digits, '.', '_' and '-', at most 64, beginning with a letter or digit",
            )
        directory = Path(root) / name
        if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
            raise RunError(f"{directory}: not a run directory", do="Move it away, or give another --name.")
        return cls(directory)

    @classmethod
    def at(cls, path: Path) -> "Run":
        """An existing run. Raises RunError where there is none."""
        if not (Path(path) / "recipe.json").exists():
            raise RunError(f"{path}: not a run (no recipe.json)", do="Runs stand in runs/; each has a recipe.json.")
        return cls(Path(path))

    def path(self, *parts: str) -> Path:
        """A path inside the run."""
        return self.directory.joinpath(*parts)

    def recipe(self, file: str = "recipe.json") -> Recipe:
        """The run's recipe, or its request, as it was saved. Raises RunError for one that this version cannot read."""
        path = self.path(file)
        values = read_json(path)
        again = "Begin a new run under another --name, or use the version that wrote it."
        if not isinstance(values, dict):
            raise RunError(
                f"{path}: not a recipe", got=f"a {type(values).__name__}", known="an object of settings", do=again
            )
        try:
            recipe = validate(Recipe, values, str(path))
        except RecipeError as error:
            raise RunError(
                f"{path}: not a recipe of this version ({__version__})",
                got=error.what.removeprefix(f"{path}: "),
                do=again,
            ) from error
        if not recipe.pipeline:
            raise RunError(f"{path}: not a run's recipe", got="a recipe without a pipeline", do=again)
        return recipe

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process. Raises RunError while another process does."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            file = open(self.path(".lock"), "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise RunError(f"{self.directory}: cannot be written", got=error.strerror or str(error)) from error
        with file:
            if not _try_lock(file):
                file.seek(0)
                raise RunError(
                    f"{self.directory}: another process is using this run",
                    got=f"process {file.read().strip() or 'unknown'}",
                    do="Wait for it, or give another --name.",
                )
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)

    def record_path(self, number: int, stage: str) -> Path:
        """Where a stage's record stands: ``stages/04-train.json``."""
        return self.path("stages", f"{number:02d}-{stage}.json")

    def finished(self, stage: str) -> bool:
        """Whether a stage of this name has left a record."""
        return any(self.path("stages").glob(f"[0-9]*-{stage}.json"))

    def record(self, stage: str) -> StageRecord:
        """The record of a finished stage. Raises RunError where it has not finished."""
        found = sorted(self.path("stages").glob(f"[0-9]*-{stage}.json"))
        if not found:
            raise RunError(f"{self.directory}: stage {stage!r} has not finished here", do="Run the pipeline first.")
        return read_record(found[0])

    def result(self, stage: str, kind: type[R]) -> R:
        """What a finished stage returned, as its type. Raises RunError."""
        return kind.from_json(self.record(stage).result, f"{self.directory}: the record of {stage}")

    def is_current(self, number: int, stage: str, inputs: str, contents: bool = True) -> bool:
        """True where the stage has finished with these inputs and its outputs are there, as they were if asked."""
        path = self.record_path(number, stage)
        if not path.exists():
            return False
        record = read_record(path)
        return record.inputs == inputs and (
            self.holds(record) if contents else all(self.path(name).is_file() for name in record.outputs)
        )

    def holds(self, record: StageRecord) -> bool:
        """Whether every output of a record is there, byte for byte, as a file of this run's own."""
        return all(
            self._own_file(name) and self.path(name).stat().st_size == size and sha256_file(self.path(name)) == digest
            for name, (size, digest) in record.outputs.items()
        )

    def _own_file(self, name: str) -> bool:
        """Whether a relative path is a file inside the run that no symbolic link leads out of."""
        path = self.path(name)
        return path.is_file() and path.resolve().is_relative_to(self.directory.resolve())

    def finish(
        self,
        number: int,
        stage: str,
        inputs: str,
        outputs: list[Path],
        result: Record,
        seconds: float,
        external: dict[str, str] | None = None,
        machine: dict[str, str] | None = None,
    ) -> StageRecord:
        """Write a stage's record; it comes last, so a half-done stage is never taken for a finished one."""
        record = StageRecord(
            stage=stage,
            inputs=inputs,
            outputs={
                path.relative_to(self.directory).as_posix(): (path.stat().st_size, sha256_file(path))
                for path in outputs
            },
            result=result.to_json(),
            seconds=round(seconds, 3),
            peak_memory_bytes=peak_memory_bytes(),
            versions=versions(),
            hardware=hardware(),
            git_commit=git_commit(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            external=external or {},
            machine=machine or {},
        )
        write_json(self.record_path(number, stage), record.to_json())
        return record

    def take_over(self, number: int, stage: str, inputs: str, machine: dict[str, str]) -> str:
        """Take a finished stage from another run beside this one whose record has the same inputs and machine.

        Its files are copied, and checked against the hashes that were recorded when they were written. Returns the
        other run's name, or nothing where there is none.
        """
        for path in sorted(self.directory.parent.glob(f"*/stages/{number:02d}-{stage}.json"), reverse=True):
            other = Run(path.parents[1])
            if other.directory.resolve() == self.directory.resolve() or other.directory.is_symlink():
                continue
            try:
                record = read_record(path)
            except RunError:  # of another version, or damaged: no use to us
                continue
            if (record.inputs, record.machine) == (inputs, machine) and other.holds(record):
                for name in record.outputs:
                    self.path(name).parent.mkdir(parents=True, exist_ok=True)
                    with atomic_write(self.path(name), "wb") as file, open(other.path(name), "rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                if self.holds(record):
                    taken = replace(record, taken_from=record.taken_from or other.name)
                    write_json(self.record_path(number, stage), taken.to_json())
                    return other.name
        return ""

    def forget(self, stages: Iterable[tuple[int, str, Iterable[str]]]) -> None:
        """Drop the records of stages and what they left, so that nothing out of date is taken for a result.

        stages: number, name and the patterns of the outputs; the folder that holds one is removed whole.
        """
        for number, stage, patterns in stages:
            self.record_path(number, stage).unlink(missing_ok=True)
            wanted = {pattern.rpartition("/")[0] or pattern for pattern in patterns}
            for path in [path for name in wanted for path in self.directory.glob(name)]:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
                if path.parent != self.directory and not any(path.parent.iterdir()):
                    path.parent.rmdir()


def read_record(path: Path) -> StageRecord:
    """A stage's record. Raises RunError for a file that is none."""
    return StageRecord.from_json(read_json(path), path)


def content(record: StageRecord) -> str:
    """What later stages depend on: files that a stage left and read from outside, what it returned; not how or when."""
    return sha256_json([record.outputs, record.external, record.result])


def _try_lock(file: IO[str]) -> bool:
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
