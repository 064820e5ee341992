"""One command in several processes, started here for --processes, or by torchrun or accelerate launch.

The first process runs the command; the others wait and train with it. Only the first one writes and prints.
"""

import os
import signal
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from finetune.console import say, warn
from finetune.errors import FinetuneError, Interrupted, RecipeError, TrainingError
from finetune.files import read_json, write_json
from finetune.training.ranks import calls, has_ended, processes, rank

STATUS = "FINETUNE_STATUS"  # names the file for the exit status of the first process that was started here
ALONE_SECONDS = 10.0  # after which an error that stopped this process alone is shown


def process_count(asked: int) -> int:
    """The number of processes of this command: those that are started already, or those asked for.

    Raises RecipeError if both were given and differ.
    """
    started = processes()
    if started > 1 and asked not in (1, started):
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
    return max(started, asked)


def start_processes(count: int, work: dict[str, Any]) -> int:
    """Run ``finetune.cli.train.run_request(**work)`` in this many processes; returns the exit status.

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
            [*launcher, "-m", "finetune.cli.worker", str(Path(folder) / "work.json")],
            {"OMP_NUM_THREADS": threads, STATUS: str(status)},
            count,
        )
        if status.exists():
            return int(read_json(status)["status"])
    if stopped:
        raise Interrupted("stopped; what was saved is intact")
    raise TrainingError(
        "one of the processes ended",
        got=f"status {returned}",
        do="Its own message stands above. The same command resumes from the last checkpoint.",
    )


def help_first() -> None:
    """Train whenever the first process calls, until it ends."""
    from finetune.run import Run
    from finetune.stages.train import train_here

    for number in (signal.SIGINT, signal.SIGTERM):  # the first process decides what a signal ends
        signal.signal(number, lambda *_: None)
    with open(os.devnull, "w") as nowhere:
        for directory in calls():
            run = Run.at(Path(directory))
            try:
                with redirect_stdout(nowhere), redirect_stderr(nowhere):
                    train_here(run.recipe(), run)
            except Interrupted:
                pass
            except FinetuneError as error:
                if not _first_ends_too():
                    raise TrainingError(f"process {rank()} of {processes()}: {error}") from error


def _first_ends_too() -> bool:
    """Whether the first process ends as well, as it does from an error that all processes meet."""
    until = time.monotonic() + ALONE_SECONDS
    while time.monotonic() < until:
        if has_ended():
            return True
        time.sleep(0.1)
    return False
