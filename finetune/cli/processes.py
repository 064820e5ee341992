"""Run one command in several processes, started here for --processes, or by torchrun or accelerate launch.

The first process runs the command; the others wait and share its work. Only the first one writes and prints.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from finetune.console import say, warn
from finetune.errors import FinetuneError, Interrupted, RecipeError, TrainingError
from finetune.files import read_json, write_json, write_nothing
from finetune.training.ranks import calls, has_ended, launched, processes, rank

if TYPE_CHECKING:
    from finetune.recipe import Recipe
    from finetune.run import Run

STATUS = "FINETUNE_STATUS"  # names the file for the exit status of the first process that was started here
ALONE_SECONDS = 10.0  # wait before showing an error that stopped only this process


def process_count(asked: int | None) -> int:
    """The number of processes of this command: those already running, or those asked for, or one.

    Raises RecipeError if both were given and differ.
    """
    started = processes()
    if started > 1 and asked not in (None, started):
        raise RecipeError(
            "--processes differs from the number of processes that were started",
            got=str(asked),
            known=str(started),
            do="Leave out --processes.",
        )
    if started == 1 and "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ:
        warn(
            "accelerate launch was asked for several processes and started one, as it does with --cpu. On a CPU use "
            "--processes N or torchrun"
        )
    return max(started, asked or 1)


def run_process_count(asked: int | None, request: "Recipe") -> int:
    """As ``process_count``; by default one per GPU, if several processes can share the run."""
    if asked is not None or launched() or (gpus := _gpus()) < 2:
        return process_count(asked)
    from finetune.execution import check_settings

    try:
        check_settings(request, gpus)
    except RecipeError:  # an unrelated one is raised again for one process
        return 1
    say(f"{gpus} GPUs: a process on each (--processes 1 uses one)")
    return gpus


def _gpus() -> int:
    """The number of GPUs that CUDA shows to this process, or 0."""
    import torch

    from finetune.training.precision import device_type

    return torch.cuda.device_count() if device_type() == "cuda" else 0


def start_processes(count: int, command: str, work: dict[str, Any]) -> NoReturn:
    """Run a command of ``finetune.cli.worker`` in this many processes, and exit with the first one's status.

    Raises TrainingError for more processes than GPUs, or if one of them was killed.
    """
    import torch

    from finetune.training.launch import supervise
    from finetune.training.precision import device_type

    devices = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device_type(), count)
    if count > devices:
        raise TrainingError(
            "each process needs its own GPU",
            got=f"{count} processes",
            known=f"{devices} GPU",
            do="Set --processes to at most the number of GPUs.",
        )
    threads = os.environ.get("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    say(f"starting {count} processes")
    with tempfile.TemporaryDirectory() as folder:
        status = Path(folder) / "status.json"
        write_json(Path(folder) / "work.json", work)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        returned, stopped = supervise(
            [*launcher, "-m", "finetune.cli.worker", command, str(Path(folder) / "work.json")],
            {"OMP_NUM_THREADS": threads, STATUS: str(status)},
            count,
        )
        if status.exists():
            sys.exit(read_json(status)["status"])  # not typer.Exit: that process has printed why
    if stopped:
        raise Interrupted("stopped; saved files are intact")
    raise TrainingError(
        "one of the processes ended",
        got=f"status {returned}",
        do="Its own message is above. Run the same command to resume from the last checkpoint.",
    )


def help_first() -> None:
    """Share the work that the first process calls for, until that process ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the first process handles signals
        signal.signal(number, lambda *_: None)
    write_nothing()
    with open(os.devnull, "w") as nowhere, _ends_with_first():
        for what, *on in calls():
            try:
                with redirect_stdout(nowhere), redirect_stderr(nowhere):
                    WORK[what](*on)
            except Interrupted:
                pass
            except FinetuneError as error:
                if not _first_ends_too():
                    raise TrainingError(f"process {rank()} of {processes()}: {error}") from error


def _train(directory: str) -> None:
    from finetune.stages.train import train_here

    run = _run_at(directory)
    train_here(run.recipe(), run)


def _evaluate(directory: str) -> None:
    from finetune.stages.evaluate import evaluate_here
    from finetune.training.loop import set_threads

    run = _run_at(directory)
    recipe = run.recipe()
    set_threads(recipe.train.threads)
    evaluate_here(recipe, run)


def _predict(bundle: str, *adapters: str) -> None:
    from finetune.commands.bundle import task_module

    given = [Path(adapter) for adapter in adapters]
    task, directory = task_module(Path(bundle), "predict", given)
    task.help_predict(directory, *given)


def _audit(directory: str) -> None:
    from finetune.tasks.classify.audit import text_states
    from finetune.training.loop import set_threads

    run = _run_at(directory)
    recipe = run.recipe()
    set_threads(recipe.train.threads)
    text_states(recipe, run)


def _score(*given: str) -> None:
    from finetune.commands.bundle import score_file

    score_file(*given)


WORK: dict[str, Callable[..., None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "audit": _audit,
    "predict": _predict,
    "score": _score,
}


@cache
def _run_at(directory: str) -> "Run":
    """The run, always the same object, since stages keep objects for later ones in its memory."""
    from finetune.run import Run

    return Run.at(Path(directory))


@contextmanager
def _ends_with_first() -> Iterator[None]:
    """End this process soon after the first one, even while it waits for the first one in the middle of shared work."""
    left = threading.Event()

    def watch() -> None:
        with suppress(RuntimeError):  # the store is gone, and so is the first process
            while not left.wait(1) and not has_ended():
                pass
        if not left.wait(ALONE_SECONDS):
            os._exit(0)  # the status of the command is that of the first process

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        watcher.join()  # a thread that uses the store while Python exits would abort the process


def _first_ends_too() -> bool:
    """Whether the first process ends as well, as it does if all processes raise the same error."""
    until = time.monotonic() + ALONE_SECONDS
    while time.monotonic() < until:
        if has_ended():
            return True
        time.sleep(0.1)
    return False
