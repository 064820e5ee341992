"""``python -m finetune.cli.worker COMMAND work.json``: one of the processes that ``start_processes`` starts."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from finetune.cli import run_command
from finetune.cli.processes import STATUS
from finetune.cli.train import run_request
from finetune.cli.use import evaluate_request, predict_request
from finetune.files import read_json, write_json
from finetune.training.launch import watch_parent
from finetune.training.ranks import end, rank

COMMANDS: dict[str, Callable[..., None]] = {
    "run": run_request,
    "predict": predict_request,
    "evaluate": evaluate_request,
}


def main(command: str, path: str) -> None:
    """Run the command with the others; the first process leaves the exit status in a file.

    The status of the process itself is for torchrun, which ends the others and prints a summary where it is not 0.
    """
    watch_parent()
    status = run_command(lambda: COMMANDS[command](**read_json(Path(path))))
    if rank() == 0:
        write_json(Path(os.environ[STATUS]), {"status": status})
    end(1 if status and rank() > 0 else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
