"""A run: one directory, one process at a time, a record for each finished stage."""

import ctypes
import gc
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from finetune.errors import RunError
from finetune.files import read_json, sha256_file, sha256_json, write_json

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = {"con", "prn", "aux", "nul", *(f"{device}{i}" for device in ("com", "lpt") for i in range(1, 10))}
PACKAGES = ("gpt2-finetune", "torch", "accelerate", "tiktoken", "safetensors", "scikit-learn", "numpy", "pandas",
            "datasets", "transformers")
_kept_bytes = 0  # a peak from before the last reset that still counts


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


def versions() -> dict[str, str]:
    """Python's version and those of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict:
    """The machine, without anything that names it or its user."""
    found = {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count() or 1}
    if Path("/proc/cpuinfo").exists():
        models = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        found["cpu"] = models[0] if models else "unknown"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def git_commit() -> str | None:
    """The checkout's commit; none for an installed package, whatever repository it happens to stand in."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return None
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def reset_peak_memory(keep_bytes: int = 0) -> None:
    """Begin a new peak, where the system can (Linux); elsewhere the peak is the process's.

    keep_bytes: an earlier peak that still counts in what ``peak_memory_bytes`` says of the stage.
    """
    global _kept_bytes
    _kept_bytes = keep_bytes
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def release_memory() -> None:
    """Hand memory that nothing uses back to the system, so that what comes next has a peak of its own."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library than Linux's usual one keeps what it keeps
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory_bytes() -> int:
    """The most memory this process held since the last reset, or what that was told to keep."""
    return max(_kept_bytes, latest_peak_bytes())


def latest_peak_bytes() -> int:
    """The most memory this process held since the last reset, and nothing else."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil
        return psutil.Process().memory_info().peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def timed():
    """Measure a block: yields a function that gives the seconds so far."""
    start = time.monotonic()
    yield lambda: time.monotonic() - start


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
