"""Console output: lines, warnings and progress bars, with a copy in the run's log.txt."""

import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

from finetune.errors import FinetuneError
from finetune.files import open_append

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_log = None
_silent = ContextVar("silent", default=False)


def clean(text: str) -> str:
    """Text from data without the control characters that could drive a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def escape_markdown(text: str) -> str:
    """Text from data as one line of Markdown that shows it as it is: no HTML, no emphasis, no links, no table cell."""
    for character in "\\`*_[]#|~!":
        text = text.replace(character, "\\" + character)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(clean(text).split("\n"))


def program() -> str:
    """The command that starts this program: ``finetune`` if it is on the PATH."""
    if shutil.which("finetune"):
        return "finetune"
    interpreter = Path(sys.executable)
    if interpreter.is_relative_to(Path.cwd()):
        interpreter = interpreter.relative_to(Path.cwd())
    return f"{interpreter} -m finetune"


class Advance(Protocol):
    """The callback that ``progress`` yields; advances the bar by an amount."""

    def __call__(self, amount: float = 1, note: str = "") -> None: ...


def unseen(amount: float = 1, note: str = "") -> None:
    """An ``Advance`` without a bar."""


@contextmanager
def log_to(path: Path | str) -> Iterator[None]:
    """Also copy every line printed inside the block to a file."""
    global _log
    with open_append(Path(path)) as file:
        previous, _log = _log, file
        try:
            yield
        except FinetuneError as error:  # printed on the screen where it is caught
            print(f"error: {clean(str(error))}", file=file)
            raise
        finally:
            _log = previous


@contextmanager
def silence() -> Iterator[None]:
    """Suppress all output and bars inside the block, for callers of the library."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def say(text: str = "", *, end: str = "\n", error: bool = False) -> None:
    """Print one line, or with another `end` a part of a line, to stdout (stderr if `error`) and to the log."""
    if _silent.get():
        return
    text = clean(text)
    stream = sys.stderr if error else sys.stdout
    try:
        print(text, end=end, file=stream, flush=True)
    except UnicodeEncodeError:  # a terminal without UTF-8
        print(text.encode("ascii", "replace").decode(), end=end, file=stream, flush=True)
    if _log is not None:
        print(text, end=end, file=_log, flush=True)


def warn(text: str) -> None:
    """Print a warning; the work continues."""
    say(f"note: {text}", error=True)


@contextmanager
def progress(
    what: str, total: float | None, *, unit: str = "", done: float = 0, every_seconds: float = 10.0
) -> Iterator[Advance]:
    """A live bar with rate and time left on a terminal, a plain line now and then elsewhere.

    total: None if unknown. Yields ``advance(amount, note="")``; the note (a loss, for example) is shown at the end of
    the line.
    """
    if _silent.get():
        yield unseen
        return
    if sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        start, begun = time.monotonic(), done
        with Progress(*columns, transient=True) as bar:
            task = bar.add_task(
                what,
                total=total,
                completed=done,  # type: ignore[arg-type]  # rich counts in floats
                rate="",
                note="",
            )

            def advance_bar(amount: float = 1, note: str = "") -> None:
                nonlocal done
                done += amount
                rate = (done - begun) / max(time.monotonic() - start, 1e-9)
                bar.update(task, advance=amount, rate=f"{rate:,.1f} {unit}/s", note=note)

            yield advance_bar
        return

    start, begun, last = time.monotonic(), done, time.monotonic()

    def advance(amount: float = 1, note: str = "") -> None:
        nonlocal done, last
        done += amount
        now = time.monotonic()
        if now - last >= every_seconds:
            last = now
            rate = (done - begun) / max(now - start, 1e-9)
            goal = f"/{total:,.0f}" if total else ""
            left = f"  {(total - done) / max(rate, 1e-9):,.0f} s left" if total else ""
            say(f"{what}: {done:,.0f}{goal} {unit}  {rate:,.1f}/s{left}  {note}".rstrip())

    yield advance


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as table lines, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
