"""Run a stage's work in separate processes: start and stop them, and return the result."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil

from finetune.console import log_to
from finetune.errors import FinetuneError, Interrupted, TrainingError
from finetune.files import read_json, write_json
from finetune.records import Record
from finetune.run import Run
from finetune.training.loop import StopSignal
from finetune.training.out_of_memory import memory_errors

RESULT = ".launch-result.json"  # file that passes the result back
STOP = b"."  # what a process reads from its parent when it is to stop


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Answer(Record):
    """How the work in a launched process ended: in its result, a stop or an error."""

    result: dict[str, Any] | None = None  # a record, as JSON
    stopped: str = ""
    error: str = ""


def supervise(command: list[str], environment: dict[str, str] | None = None, processes: int = 1) -> tuple[int, bool]:
    """Start Python with these arguments and wait: the exit status, and whether this process was asked to stop.

    The started processes watch a pipe from this one (``watch_parent``). When this process is asked to stop it writes a
    byte for each of them, and they finish their step, save and stop; when it is killed they end at once. They run in a
    separate session so that Ctrl-C does not reach torchrun, which would kill workers that take more than 30 seconds.
    """
    with (
        StopSignal() as stop,
        subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | (environment or {}),
            stdin=subprocess.PIPE,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdin is not None, "stdin is a pipe"
        try:
            while process.poll() is None:
                if stop.asked and not process.stdin.closed:
                    with contextlib.suppress(BrokenPipeError):  # they have just ended
                        process.stdin.write(STOP * processes)
                        process.stdin.close()
                time.sleep(0.1)
        except KeyboardInterrupt:  # asked a second time: nothing may write after this process has let go of the run
            _kill(process.pid)
            raise
    return process.returncode, stop.asked


def launch(command: list[str], run: Run, kind: type[R], environment: dict[str, str] | None = None) -> R:
    """Start Python with these arguments, which call ``answer``, and return its result, which is of this `kind`.

    Re-raises the error that ended the work: Interrupted or TrainingError.
    """
    run.path(RESULT).unlink(missing_ok=True)
    status, stopped = supervise(command, environment)
    path = run.path(RESULT)
    answered = read_json(path) if path.exists() else {}
    path.unlink(missing_ok=True)
    found = Answer.from_json(answered, path)
    if stopped or found.stopped:
        raise Interrupted(found.stopped or "stopped; what was saved is intact")
    if found.error:
        raise TrainingError(found.error)
    if found.result is None:
        raise TrainingError(
            "training in another process failed",
            got=f"status {status}",
            do="Run the same command to resume from the last checkpoint.",
        )
    return kind.from_json(found.result, "the result of another process")


def _kill(parent: int) -> None:
    """End a process and all that it started, at once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(parent)
        family = [root, *root.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=5)


def answer(run: Run, work: Callable[[], Record]) -> None:
    """Do the work in a launched process and pass its result back."""
    watch_parent()
    with log_to(run.path("log.txt")):
        try:
            with memory_errors():
                found = Answer(result=work().to_json())
        except Interrupted as stop:
            found = Answer(stopped=str(stop))
        except FinetuneError as error:
            found = Answer(error=str(error))
        write_json(run.path(RESULT), found.to_json())


def watch_parent() -> None:
    """Stop this process as soon as its parent asks for it, and end it at once when the parent is gone."""
    threading.Thread(target=_read_parent, daemon=True).start()


def _read_parent() -> None:
    if os.read(0, 1) != STOP:
        os._exit(1)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # outside the loop, there is nothing to save
        os._exit(0)
    signal.raise_signal(signal.SIGTERM)
