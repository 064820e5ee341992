"""Stage ``train``: run the training loop on the task's job, in this process or under torchrun."""

import sys
from pathlib import Path

from finetune.recipe import Recipe, Train
from finetune.records import BestStep, TrainedTensors, TrainResult
from finetune.run import Run

TRAIN = tuple(f"train.{name}" for name in Train.model_fields if name != "class_weights")  # which has an owner
READS = ("task", "weights", *TRAIN)
OUTPUTS = ("train.jsonl", "checkpoints/best.json")


def check(recipe: Recipe, processes: int = 1) -> None:
    """Raise RecipeError, before the run is created, for a method that does not share its work between processes."""
    from finetune.errors import RecipeError
    from finetune.recipe import FEATURES

    if recipe.train.method == FEATURES and processes > 1:
        raise RecipeError(
            "method features runs in one process", got=f"--processes {processes}", do="Leave out --processes."
        )
    if recipe.train.micro_batch_tokens == "auto" and processes > 1:
        raise RecipeError(
            "train.micro_batch_tokens=auto is found in one process",
            got=f"--processes {processes}",
            do="Give a number; each process has its own passes of so many tokens.",
        )


def machine(recipe: Recipe, processes: int) -> dict[str, str]:
    """What the exact bits of a training depend on, besides its settings."""
    from importlib.metadata import version

    from finetune.training.loop import set_threads
    from finetune.training.precision import device_type, has_bf16

    precision = recipe.train.precision
    return {
        "torch": version("torch"),
        "threads": str(set_threads(recipe.train.threads)),
        "device": device_type(),
        "precision": ("bf16" if has_bf16() else "fp32") if precision == "auto" else precision,
        "processes": str(processes),
    }


def recorded(run: Run) -> list[Path]:
    """The log and all files of the best checkpoint."""
    from finetune.files import read_json
    from finetune.training.resume import step_directory

    best = run.path("checkpoints", "best.json")
    step = step_directory(run.path("checkpoints"), BestStep.from_json(read_json(best), best).step)
    return [run.path("train.jsonl"), best, *sorted(step.iterdir())]


def run(recipe: Recipe, run: Run, processes: int = 1) -> TrainResult:
    """Train, resuming from the newest checkpoint if there is one. Returns the resolved settings and the results."""
    return _launch(run, processes) if processes > 1 else train_here(recipe, run)


def train_here(recipe: Recipe, run: Run) -> TrainResult:
    """Train in this process (one of several under torchrun); keeps the best model in memory for later stages."""
    import os
    import time

    import torch

    from finetune.console import say, warn
    from finetune.tasks.base import task_of
    from finetune.tasks.setup import BEST, build, fit, identity, with_tokens_that_fit
    from finetune.training.health import warnings_about
    from finetune.training.loop import set_threads
    from finetune.training.precision import device_type

    begun = time.monotonic()
    set_threads(recipe.train.threads)
    task, setup = task_of(recipe), build(recipe, run)
    device = torch.device(device_type(), int(os.environ.get("LOCAL_RANK", "0")) if device_type() == "cuda" else 0)
    if recipe.train.micro_batch_tokens == "auto":
        setup = with_tokens_that_fit(task, recipe, run, setup, device)
    settings, trainable = setup.settings, setup.trainable
    for line in [*setup.why, trainable.describe()]:
        say(f"  {line}")
    job = task.build_job(recipe, run, setup, device)
    found = fit(
        job, settings, run.directory, identity(recipe, run, reads(recipe)), set_up_seconds=time.monotonic() - begun
    )
    if int(os.environ.get("RANK", "0")) == 0:
        for line in warnings_about(run.path("train.jsonl")):
            warn(line)
    run.memory[BEST] = setup.model, setup.tokenizer
    tensors = TrainedTensors(
        trainable.names, trainable.places(), trainable.parameters, trainable.parameters / trainable.total
    )
    return TrainResult(
        **vars(found),
        method=settings.method,
        why=setup.why,
        lr=settings.lr,
        precision=settings.precision,
        parameters=trainable.total,
        trainable=tensors,
    )


def reads(recipe: Recipe) -> tuple[str, ...]:
    """The settings that determine the training: this stage's and the task's."""
    from finetune.recipe import task_settings

    return (*READS, *task_settings(recipe.task).READS.get("train", ()))


def _launch(run: Run, processes: int) -> TrainResult:
    """Start torchrun on this module and return the result of rank 0."""
    import os

    import torch

    from finetune.console import say
    from finetune.errors import TrainingError
    from finetune.training.launch import launch
    from finetune.training.precision import device_type

    devices = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device_type(), processes)
    if processes > devices:
        raise TrainingError(
            "each process needs its own GPU",
            got=f"{processes} processes",
            known=f"{devices} GPU",
            do="Set --processes to at most the number of GPUs.",
        )
    cores = max((os.cpu_count() or 1) // processes, 1)
    say(f"  starting {processes} processes")
    found = launch(
        [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
            "-m",
            "finetune.stages.train",
            str(run.directory),
        ],
        run,
        TrainResult,
        {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cores))},
    )
    if found.processes != processes:
        raise TrainingError(
            "torchrun started a different number of processes than requested",
            got=str(found.processes),
            known=str(processes),
        )
    return found


def _main(directory: str) -> None:
    """Entry point of each process under torchrun."""
    from finetune.training.launch import answer

    run = Run.at(Path(directory))
    recipe = run.recipe()
    answer(run, lambda: train_here(recipe, run))


if __name__ == "__main__":
    _main(sys.argv[1])
