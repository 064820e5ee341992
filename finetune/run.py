"""A run: one directory, one process at a time, a record for each finished stage."""

import os
import re
import shutil
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from finetune.errors import RunError
from finetune.files import read_json, sha256_file, sha256_json, write_json
from finetune.machine import git_commit, hardware, peak_memory_bytes, versions

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = {"con", "prn", "aux", "nul", *(f"{device}{i}" for device in ("com", "lpt") for i in range(1, 10))}


class Run:
    """One output directory and what stands in it."""

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        self.name = self.directory.name

    @classmethod
    def named(cls, root: Path, name: str) -> "Run":
        """The run of that name under `root`. Raises RunError for a name that is no plain file name."""
        if not NAME.fullmatch(name) or name.endswith(".") or name.split(".")[0].lower() in RESERVED:
            raise RunError("a run's name is not usable", got=repr(name),
                           known="letters, digits, '.', '_' and '-', at most 64, beginning with a letter or digit")
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

    @contextmanager
    def locked(self):
        """Hold the run for this process. Raises RunError while another process does."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            file = open(self.path(".lock"), "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise RunError(f"{self.directory}: cannot be written", got=error.strerror or str(error)) from error
        with file:
            if not _try_lock(file):
                file.seek(0)
                raise RunError(f"{self.directory}: another process is using this run",
                               got=f"process {file.read().strip() or 'unknown'}",
                               do="Wait for it, or give another --name.")
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

    def record(self, stage: str) -> dict:
        """The record of a finished stage. Raises RunError where it has not finished."""
        found = sorted(self.path("stages").glob(f"*-{stage}.json"))
        if not found:
            raise RunError(f"{self.directory}: stage {stage!r} has not finished here", do="Run the pipeline first.")
        return read_json(found[0])

    def result(self, stage: str) -> dict:
        """What a finished stage returned."""
        return self.record(stage)["result"]

    def is_current(self, number: int, stage: str, inputs: str, sizes: bool = True) -> bool:
        """True where the stage has finished with these inputs and its outputs still stand, in their sizes if asked."""
        path = self.record_path(number, stage)
        if not path.exists():
            return False
        record = read_json(path)
        outputs = record.get("outputs", {})
        return record.get("inputs") == inputs and all(
            self.path(name).is_file() and (not sizes or self.path(name).stat().st_size == size)
            for name, (size, _) in outputs.items())

    def finish(self, number: int, stage: str, inputs: str, outputs: list[Path], result: dict, seconds: float) -> dict:
        """Write a stage's record; it comes last, so a half-done stage is never taken for a finished one."""
        record = {
            "stage": stage, "inputs": inputs,
            "outputs": {path.relative_to(self.directory).as_posix(): [path.stat().st_size, sha256_file(path)]
                        for path in outputs},
            "result": result, "seconds": round(seconds, 3), "peak_memory_bytes": peak_memory_bytes(),
            "versions": versions(), "hardware": hardware(), "git_commit": git_commit(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds")}
        write_json(self.record_path(number, stage), record)
        return record

    def forget(self, stages: list[tuple[int, str]]) -> None:
        """Drop the records of these stages and what they left, so that nothing out of date is taken for a result."""
        left = {"train": ["checkpoints", "train.jsonl"], "report": ["report"], "export": ["export"],
                "evaluate": ["eval.json", "predictions.csv", "answers.csv", "targets.csv", "attention.json"],
                "compare": ["comparison", "comparison.json"],
                "architectures": ["training", "trainings.jsonl", "comparison.json"]}
        for number, stage in stages:
            self.record_path(number, stage).unlink(missing_ok=True)
            for name in left.get(stage, []):
                path = self.path(name)
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def fingerprint(record: dict) -> str:
    """What a later stage depends on: a record's inputs, result and outputs, not its times."""
    return sha256_json({key: record[key] for key in ("stage", "inputs", "outputs", "result")})


def _try_lock(file) -> bool:
    try:
        if os.name == "nt":
            import msvcrt
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
