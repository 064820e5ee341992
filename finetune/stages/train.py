"""Stage ``train``: the loop over the task's job, in this process or in several under torchrun."""

import os
import sys
import time
from pathlib import Path

from finetune.console import say
from finetune.errors import TrainingError
from finetune.files import read_json
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.tasks.base import task_named
from finetune.tasks.setup import build, identity
from finetune.training.launch import answer, launch
from finetune.training.loop import set_threads, train
from finetune.training.precision import device_type

OUTPUTS = ["train.jsonl", "checkpoints/best.json"]


def run(recipe: Recipe, run: Run, processes: int = 1) -> dict:
    """Train from the newest checkpoint, or from the start. Returns what was chosen, trained and measured."""
    if processes > 1:
        return _launch(run, processes)
    return train_here(recipe, run)


def train_here(recipe: Recipe, run: Run) -> dict:
    """Train in this process (one of several under torchrun)."""
    import torch
    begun = time.monotonic()
    set_threads(recipe.train.threads)
    built = build(recipe, run)
    settings, trainable = built.settings, built.trainable
    for line in [*built.why, trainable.describe()]:
        say(f"  {line}")
    device = torch.device(device_type(), int(os.environ.get("LOCAL_RANK", "0")) if device_type() == "cuda" else 0)
    job = task_named(recipe.task).build_job(recipe, run, built, device)
    found = train(job, settings, run.directory, identity(recipe, run), set_up_seconds=time.monotonic() - begun)
    return found | {"method": settings.method, "why": built.why, "lr": settings.lr, "precision": settings.precision,
                    "parameters": trainable.total,
                    "trainable": {"names": trainable.names, "places": trainable.places(),
                                  "parameters": trainable.parameters, "share": trainable.parameters / trainable.total}}


def _launch(run: Run, processes: int) -> dict:
    """Start torchrun on this module and take over the first process's result."""
    import torch
    devices = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device_type(), processes)
    if processes > devices:
        raise TrainingError("each process needs a GPU of its own", got=f"{processes} processes", known=f"{devices} GPU",
                            do="Give --processes no more than there are.")
    cores = max((os.cpu_count() or 1) // processes, 1)
    say(f"  starting {processes} processes")
    found = launch(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
                    "-m", "finetune.stages.train", str(run.directory)], run,
                   {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cores))})
    if found["processes"] != processes:
        raise TrainingError("torchrun started another number of processes than asked",
                            got=str(found["processes"]), known=str(processes))
    return found


def _main(directory: str) -> None:
    """What each process under torchrun does."""
    run = Run.at(Path(directory))
    answer(run, lambda: train_here(Recipe.model_validate(read_json(run.path("recipe.json"))), run))


if __name__ == "__main__":
    _main(sys.argv[1])
