"""A run: one directory, one process at a time, a record for each finished stage."""

import os
import re
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from finetune import __version__
from finetune.config import validate
from finetune.errors import RecipeError, RunError, listed
from finetune.files import (
    atomic_write,
    clear_leftover,
    is_leftover,
    read_json,
    sha256_file,
    sha256_json,
    try_lock,
    write_json,
)
from finetune.machine import git_commit, hardware, peak_memory_bytes, versions
from finetune.recipe import Recipe
from finetune.records import Record, StageRecord

R = TypeVar("R", bound=Record)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = {"con", "prn", "aux", "nul", *(f"{device}{i}" for device in ("com", "lpt") for i in range(1, 10))}


class Run:
    """One output directory and its contents.

    memory: objects that a stage keeps for later ones in the same process, so that they are not reloaded from disk.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        self.name = self.directory.name
        self.memory: dict[str, Any] = {}

    @classmethod
    def named(cls, root: Path, name: str) -> "Run":
        """The run of that name under `root`. Raises RunError if the name is not a plain file name."""
        if not NAME.fullmatch(name) or name.endswith(".") or name.split(".")[0].lower() in RESERVED:
            raise RunError(
                "invalid run name",
                got=repr(name),
                known="letters, digits, '.', '_' and '-', at most 64, beginning with a letter or digit",
            )
        directory = Path(root) / name
        if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
            raise RunError(f"{directory}: not a run directory", do="Move it away, or choose another --name.")
        return cls(directory)

    @classmethod
    def at(cls, path: Path) -> "Run":
        """An existing run. Raises RunError if there is none."""
        if not (Path(path) / "recipe.json").exists():
            raise RunError(f"{path}: not a run (no recipe.json)", do="Runs are in runs/; each has a recipe.json.")
        run = cls(Path(path))
        run.refuse_links()
        return run

    def path(self, *parts: str) -> Path:
        """A path inside the run."""
        return self.directory.joinpath(*parts)

    def recipe(self, file: str = "recipe.json") -> Recipe:
        """The run's saved recipe, or its saved request. Raises RunError if this version cannot read it."""
        path = self.path(file)
        values = read_json(path)
        again = "Start a new run under another --name, or use the version that wrote it."
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

    def refuse_links(self) -> None:
        """Raise RunError for a symbolic link or a special file in the run: it may come from somebody else.

        Through a link, writing to the run would change a file outside it, and reading would reveal one.
        """
        for path in self.entries():
            try:
                kind = path.lstat().st_mode
            except FileNotFoundError:  # another process has just renamed or deleted it
                continue
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                what = f"a symbolic link to {os.readlink(path)}" if path.is_symlink() else "neither a file nor a folder"
                raise RunError(
                    f"{path}: a run may contain only files and folders",
                    got=what,
                    do="Delete it, or copy the file itself.",
                )

    def entries(self) -> list[Path]:
        """Everything below the run's directory; links are listed, not followed."""
        walked = os.walk(self.directory, followlinks=False)
        return [Path(folder, name) for folder, folders, files in walked for name in (*folders, *files)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for this process, and clear up after killed processes. Raises RunError if it is in use."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.refuse_links()
            file = open(self.path(".lock"), "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise RunError(f"{self.directory}: cannot be written", got=error.strerror or str(error)) from error
        with file:
            if not try_lock(file):
                file.seek(0)
                raise RunError(
                    f"{self.directory}: another process is using this run",
                    got=f"process {file.read().strip() or 'unknown'}",
                    do="Wait for it, or choose another --name.",
                )
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for leftover in filter(is_leftover, self.entries()):
                clear_leftover(leftover)
            try:
                yield
            finally:
                file.truncate(0)

    def record_path(self, number: int, stage: str) -> Path:
        """The path of a stage's record: ``stages/04-train.json``."""
        return self.path("stages", f"{number:02d}-{stage}.json")

    def finished(self, stage: str) -> bool:
        """Whether a stage of this name has left a record."""
        return any(self.path("stages").glob(f"[0-9]*-{stage}.json"))

    def record(self, stage: str) -> StageRecord:
        """The record of a finished stage. Raises RunError if it has not finished."""
        found = sorted(self.path("stages").glob(f"[0-9]*-{stage}.json"))
        if not found:
            raise RunError(
                f"{self.directory}: stage {stage!r} has not finished in this run", do="Run the pipeline first."
            )
        return read_record(found[0])

    def result(self, stage: str, kind: type[R]) -> R:
        """What a finished stage returned, as its type. Raises RunError."""
        return kind.from_json(self.record(stage).result, f"{self.directory}: the record of {stage}")

    def is_current(self, number: int, stage: str, inputs: str, contents: bool = True) -> bool:
        """Whether the stage has finished with these inputs and its outputs exist; on request, that they are unchanged."""
        path = self.record_path(number, stage)
        if not path.exists():
            return False
        record = read_record(path)
        return record.inputs == inputs and (
            self.holds(record) if contents else all(os.path.isfile(self.path(name)) for name in record.outputs)
        )

    def holds(self, record: StageRecord) -> bool:
        """Whether every output of a record exists inside this run, byte for byte as recorded."""
        return all(self._unchanged(name, size, digest) for name, (size, digest) in record.outputs.items())

    def _unchanged(self, name: str, size: int, digest: str) -> bool:
        path = self.path(name)
        return self._own_file(name) and path.stat().st_size == size and sha256_file(path) == digest

    def changed(self, record: StageRecord) -> list[str]:
        """Each output of a finished stage that is not as recorded, and why: ``data/test.jsonl (missing)``."""
        return [
            f"{name} ({'different content' if self._own_file(name) else 'missing'})"
            for name, (size, digest) in record.outputs.items()
            if not self._unchanged(name, size, digest)
        ]

    def refuse_changes(self, besides: Collection[str] = ()) -> None:
        """Raise RunError if a finished stage's output was changed, cut short or lost since it was recorded.

        besides: stages whose outputs are not checked.
        """
        records = [read_record(path) for path in sorted(self.path("stages").glob("[0-9]*-*.json"))]
        if changed := [said for record in records if record.stage not in besides for said in self.changed(record)]:
            raise RunError(
                f"{self.directory}: files of this run have changed since they were written",
                got=listed(changed),
                do=f"To rebuild them: finetune run {self.path('recipe.json')} --name {self.name}",
            )

    def _own_file(self, name: str) -> bool:
        """Whether a relative path is a file inside the run, with no symbolic link leading outside."""
        path = self.path(name)
        return os.path.isfile(path) and path.resolve().is_relative_to(self.directory.resolve())

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
        """Write a stage's record, last of all: an unfinished stage is never mistaken for a finished one."""
        record = StageRecord(
            stage=stage,
            inputs=inputs,
            outputs=self._sizes_and_hashes(outputs),
            result=result.to_json(),
            external=external or {},
            machine=machine or {},
            **_circumstances(seconds),
        )
        write_json(self.record_path(number, stage), record.to_json())
        return record

    def renew(self, stage: str, folder: str, result: Record, seconds: float) -> None:
        """Renew a finished stage's record after a command has written its outputs in `folder` again.

        A record without outputs in this folder stays as it is, and so do the hashes of outputs elsewhere.
        """
        for path in self.path("stages").glob(f"[0-9]*-{stage}.json"):
            record = read_record(path)
            elsewhere = {name: entry for name, entry in record.outputs.items() if not name.startswith(f"{folder}/")}
            if len(elsewhere) < len(record.outputs):
                written = sorted(file for file in self.path(folder).iterdir() if file.is_file())
                outputs = elsewhere | self._sizes_and_hashes(written)
                renewed = replace(record, outputs=outputs, result=result.to_json(), **_circumstances(seconds))
                write_json(path, renewed.to_json())

    def _sizes_and_hashes(self, files: Iterable[Path]) -> dict[str, tuple[int, str]]:
        return {path.relative_to(self.directory).as_posix(): (path.stat().st_size, sha256_file(path)) for path in files}

    def take_over(self, number: int, stage: str, inputs: str, machine: dict[str, str]) -> str:
        """Reuse a finished stage of a sibling run whose record has the same inputs and machine.

        Its files are copied, and checked against the hashes that were recorded when they were written. Returns the
        other run's name, or nothing if there is none.
        """
        for path in sorted(self.directory.parent.glob(f"*/stages/{number:02d}-{stage}.json"), reverse=True):
            other = Run(path.parents[1])
            if other.directory.resolve() == self.directory.resolve() or other.directory.is_symlink():
                continue
            try:
                record = read_record(path)
            except RunError:  # from another version, or damaged
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
        """Delete the records and outputs of stages, so that nothing stale is mistaken for a result.

        stages: number, name and output patterns; a folder that contains an output is removed as a whole.
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


def _circumstances(seconds: float) -> dict[str, Any]:
    """The fields of a record that say how and when the stage ran."""
    return {
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": versions(),
        "hardware": hardware(),
        "git_commit": git_commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def read_record(path: Path) -> StageRecord:
    """Read a stage's record. Raises RunError if the file is not one."""
    return StageRecord.from_json(read_json(path), path)


def content(record: StageRecord) -> str:
    """A hash of what later stages depend on: outputs, external inputs and result, but not how or when the stage ran."""
    return sha256_json([record.outputs, record.external, record.result])
