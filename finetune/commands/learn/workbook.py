"""The learner's folder: its files, what is solved, and how a file is run."""

import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from finetune.commands.learn.catalogue import EXERCISES
from finetune.commands.learn.exercise import Exercise, Verdict, WrongResultError
from finetune.config import nearest
from finetune.console import program
from finetune.errors import FinetuneError, RecipeError, RunError, counted, shorten
from finetune.files import atomic_write, read_json, write_json
from finetune.records import Record

PROGRESS = "progress.json"
FOLDER = Path("learn")  # the default of the command


class ExerciseError(FinetuneError):
    """A learner's file that cannot be run, or does not give the right result yet."""


@dataclass(frozen=True)
class Progress(Record):
    """The content of progress.json: the names of the exercises that were solved."""

    solved: list[str]


@dataclass(frozen=True)
class Workbook:
    """The folder of a learner's files."""

    folder: Path

    def open(self) -> list[Path]:
        """Write the missing files and return their paths; existing ones stay as they are."""
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"{self.folder}: not a folder", got="a file", do="Name another: --dir DIR")
        new = [(path, number) for number in range(1, len(EXERCISES) + 1) if not (path := self.file(number)).exists()]
        for path, number in new:
            with atomic_write(path) as file:
                file.write(EXERCISES[number - 1].text(number))
        if not (self.folder / PROGRESS).exists():
            write_json(self.folder / PROGRESS, Progress([]).to_json())
        return [path for path, _ in new]

    def file(self, number: int) -> Path:
        """The file of an exercise."""
        return self.folder / f"{number:02}_{EXERCISES[number - 1].function}.py"

    def solved(self) -> list[str]:
        """The names of the solved exercises."""
        path = self.folder / PROGRESS
        return Progress.from_json(read_json(path), path, do="Delete it.").solved if path.exists() else []

    def next_number(self) -> int:
        """The first exercise that is not solved; 0 if all are."""
        solved = self.solved()
        return next((number for number, own in enumerate(EXERCISES, 1) if own.name not in solved), 0)

    def note_solved(self, exercise: Exercise) -> None:
        """Add an exercise to the solved ones."""
        solved = self.solved()
        if exercise.name not in solved:
            write_json(self.folder / PROGRESS, replace(Progress(solved), solved=[*solved, exercise.name]).to_json())


def number_of(which: str) -> int:
    """The number of an exercise given by number or name. Raises RecipeError."""
    names = [exercise.name for exercise in EXERCISES]
    if which.isdecimal() and 1 <= int(which) <= len(names):
        return int(which)
    if (name := which.replace("_", "-")) in names:
        return names.index(name) + 1
    hint = nearest(name, names)
    raise RecipeError(
        f"no exercise {which!r}", known=f"1 to {len(names)}, or {', '.join(names)}{'. ' + hint if hint else ''}"
    )


def contents(workbook: Workbook) -> list[str]:
    """Open the workbook and list its exercises, and which one is next."""
    new, solved, coming = workbook.open(), workbook.solved(), workbook.next_number()
    lines = [f"{counted(len(new), 'new file')} in {workbook.folder}/"] if new else []
    for number, exercise in enumerate(EXERCISES, 1):
        mark = "done" if exercise.name in solved else "next" if number == coming else ""
        lines.append(f"  {mark:4}  {number:2}  {exercise.title}")
    if not coming:
        return [*lines, "All are solved."]
    return [
        *lines,
        "",
        f"Next: open {workbook.file(coming)} in an editor, read the text at its top, and replace the line with",
        f"NotImplementedError. Then: {program()} learn check{_folder_option(workbook)}",
    ]


def hint(workbook: Workbook, which: str | None) -> list[str]:
    """The hint of an exercise, by default the next one, and where this project's own solution is."""
    number = number_of(which) if which else workbook.next_number() or len(EXERCISES)
    exercise = EXERCISES[number - 1]
    return [f"{number} {exercise.title}", exercise.hint, f"In this project: {exercise.where_solved()}"]


@torch.no_grad()
def check(workbook: Workbook, which: str | None, say: Callable[[str], None]) -> None:
    """Check a learner's file, by default that of the next exercise. Returns the lines to print.

    Raises ExerciseError for a file that cannot be run or is not right yet.
    """
    workbook.open()
    number = number_of(which) if which else workbook.next_number() or 1
    exercise, path = EXERCISES[number - 1], workbook.file(number)
    help_at = f"For a hint: {program()} learn hint {number}{_folder_option(workbook)}"
    try:
        verdict = _judge(exercise, path)
    except WrongResultError as error:
        raise ExerciseError(f"{path}: {error.what}", got=error.got, known=error.known, do=help_at) from error
    say(f"{number} {exercise.title}: {'right' if verdict.right else 'not right yet'}")
    for line in verdict.figures:
        say(f"  {line}")
    if not verdict.right:
        raise ExerciseError(f"{path}: {exercise.function} does not give the right result yet", do=help_at)
    workbook.note_solved(exercise)
    say(f"  In this project: {exercise.where_solved()}")
    coming = workbook.next_number()
    say(f"Next: {workbook.file(coming)}: {EXERCISES[coming - 1].title}" if coming else "All exercises are solved.")


def _judge(exercise: Exercise, path: Path) -> Verdict:
    """The verdict on a file. An exception of the learner's code becomes an ExerciseError with its line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return exercise.check(_load(exercise, path))
    except FinetuneError:
        raise
    except NotImplementedError as error:
        line = _line_in(path, error)
        if line is None:
            raise
        raise ExerciseError(
            f"{path}, line {line}: this line has not been written yet", do="Replace it with your code, and check again."
        ) from error
    except Exception as error:
        line = _line_in(path, error)
        if line is None:  # ours
            raise
        said = shorten(str(error), 200)
        raise ExerciseError(
            f"{path}, line {line}: {type(error).__name__}",
            got=said,
            do=f"The line is: {path.read_text(encoding='utf-8').splitlines()[line - 1].strip()}",
        ) from error


def _load(exercise: Exercise, path: Path) -> Callable[..., Any]:
    """Run the learner's file, and return its function."""
    try:
        source = path.read_text(encoding="utf-8")
        code = compile(source, str(path), "exec")
    except SyntaxError as error:
        raise ExerciseError(
            f"{path}, line {error.lineno}: this is not Python",
            got=error.msg,
            do=f"The line is: {(error.text or '').strip()}",
        ) from error
    except (OSError, ValueError) as error:
        raise ExerciseError(f"{path}: cannot be read", got=str(error), do="Delete it to get a new one.") from error
    namespace: dict[str, Any] = {"__name__": exercise.function, "__file__": str(path)}
    exec(code, namespace)
    function = namespace.get(exercise.function)
    if not callable(function):
        raise ExerciseError(
            f"{path}: no function {exercise.function}", do="Keep its name, or delete the file to get a new one."
        )
    return function


def _line_in(path: Path, error: BaseException) -> int | None:
    """The last line of the learner's file in an exception's traceback; None if it has none."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None


def _folder_option(workbook: Workbook) -> str:
    return "" if workbook.folder == FOLDER else f" --dir {workbook.folder}"
