"""The command ``runs``: all runs with their state, headline, size and age, and the checkpoints that nothing needs."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from finetune.console import aligned, program
from finetune.errors import FinetuneError, RunError, listed
from finetune.evaluation.results import Headline
from finetune.files import try_lock
from finetune.records import StageRecord
from finetune.report.blocks import bytes_text
from finetune.report.metric_text import METRIC_NAMES, metric_value
from finetune.run import Run, read_record

NONE = "\N{EN DASH}"
_UNITS = ((86400, "days"), (3600, "h"), (60, "min"))
StagesOf = Callable[[str], list[str]]  # a pipeline's name -> the names of its stages
FINISHED, RUNNING = "finished", "running"


@dataclass(frozen=True)
class Listed:
    """A run in the list. unneeded: step checkpoints that neither resuming nor exporting reads."""

    run: Run
    task: str
    state: str
    headline: str
    size: int
    finished: datetime
    unneeded: list[Path]


def list_runs(root: Path, stages_of: StagesOf) -> list[str]:
    """All runs below a directory as lines, the newest first, and how much pruning would free."""
    found = read_runs(root, stages_of)
    rows = [["name", "task", "state", "headline", "size", "age"]]
    rows += [
        [own.run.name, own.task, own.state, own.headline, bytes_text(own.size), _age(own.finished)] for own in found
    ]
    lines = aligned(rows)
    if freed := sum(map(_size, (path for own in found for path in own.unneeded))):
        lines += ["", f"{program()} runs --prune frees {bytes_text(freed)} of checkpoints that nothing needs"]
    return lines


def prunable(root: Path, stages_of: StagesOf) -> tuple[list[Listed], list[str]]:
    """The runs with checkpoints that nothing needs, and a line on each."""
    found = [own for own in read_runs(root, stages_of) if own.unneeded]
    return found, [
        f"{own.run.name}: {listed([path.name for path in own.unneeded])}, {bytes_text(sum(map(_size, own.unneeded)))}"
        for own in found
    ]


def prune(found: Sequence[Listed], stages_of: StagesOf) -> int:
    """Delete these checkpoints, and return the number of bytes freed. Runs that are now in use are skipped."""
    freed = 0
    for own in found:
        try:
            with own.run.locked():
                for path in _unneeded(own.run, stages_of):
                    freed += _size(path)
                    shutil.rmtree(path)
        except RunError as error:
            if "another process" not in str(error):
                raise
    return freed


def read_runs(root: Path, stages_of: StagesOf) -> list[Listed]:
    """All runs below a directory, the newest first. Raises RunError if there is none."""
    directories = [path.parent for path in sorted(root.glob("*/recipe.json")) if not path.parent.is_symlink()]
    if not directories:
        raise RunError(f"{root}: no runs here", do="Start one: finetune run PIPELINE")
    return sorted((_read(path, stages_of) for path in directories), key=lambda own: own.finished, reverse=True)


def _read(directory: Path, stages_of: StagesOf) -> Listed:
    run = Run(directory)
    changed = datetime.fromtimestamp((directory / "recipe.json").stat().st_mtime, UTC)
    size = _size(directory)
    try:
        run.refuse_links()
        recipe, records = run.recipe(), _records(run)
        state = _state(run, stages_of)
        unneeded = _unneeded(run, stages_of) if state == FINISHED else []
    except FinetuneError as error:
        return Listed(run, NONE, f"unreadable: {error.got or error.what}"[:60], NONE, size, changed, [])
    times = [datetime.fromisoformat(record.finished) for record in records if record.finished]
    return Listed(run, recipe.task, state, _headline(records), size, max(times, default=changed), unneeded)


def _records(run: Run) -> list[StageRecord]:
    return [read_record(path) for path in sorted(run.path("stages").glob("[0-9]*-*.json"))]


def _state(run: Run, stages_of: StagesOf) -> str:
    """Whether all stages have finished; else the next stage, and whether a process is working on it."""
    waiting = [name for name in stages_of(run.recipe().pipeline) if not run.finished(name)]
    if not waiting:
        return FINISHED
    return f"{RUNNING}: {waiting[0]}" if _in_use(run) else f"stopped before {waiting[0]}"


def _in_use(run: Run) -> bool:
    if not run.path(".lock").exists():
        return False
    with open(run.path(".lock"), "a+", encoding="utf-8") as file:
        return not try_lock(file)


def _unneeded(run: Run, stages_of: StagesOf) -> list[Path]:
    """The step checkpoints of a finished run that no stage has recorded: the best one is recorded."""
    if _state(run, stages_of) != FINISHED or not run.finished("train"):
        return []
    needed = {Path(name).parent.as_posix() for name in run.record("train").outputs}
    directories = sorted(path for path in run.path("checkpoints").glob("step-*") if path.is_dir())
    return [path for path in directories if path.relative_to(run.directory).as_posix() not in needed]


def _headline(records: Sequence[StageRecord]) -> str:
    """The headline of the evaluation, if there was one."""
    for record in records:
        if isinstance(record.result, dict) and "headline" in record.result:
            found = Headline.from_json(record.result["headline"], record.stage)
            return f"{METRIC_NAMES.get(found.metric, found.metric)} {metric_value(found.metric, found.value)}"
    return NONE


def _size(directory: Path) -> int:
    """The size in bytes of all files below a directory; files that vanish in the meantime do not count."""
    total = 0
    for path in Run(directory).entries():
        try:
            total += path.lstat().st_size if not path.is_dir() else 0
        except FileNotFoundError:
            continue
    return total


def _age(moment: datetime) -> str:
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for size, unit in _UNITS:
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit if count > 1 or unit != 'days' else 'day'}"
    return "now"
