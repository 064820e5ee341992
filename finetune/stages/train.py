"""Stage ``train``: run the training loop on the task's job, alone or in several processes at once."""

from pathlib import Path

from finetune.recipe import Recipe, Train
from finetune.records import BestStep, TrainedTensors, TrainResult
from finetune.run import Run

TRAIN = tuple(f"train.{name}" for name in Train.model_fields if name != "class_weights")  # which has an owner
READS = ("task", "weights", *TRAIN)
OUTPUTS = ("train.jsonl", "checkpoints/best.json")


def check(recipe: Recipe, processes: int = 1) -> None:
    """Raise RecipeError, before the run is created, for settings that do not work together or with this many processes."""
    from finetune.errors import RecipeError
    from finetune.recipe import FEATURES, FSDP

    if recipe.train.method == FEATURES and processes > 1:
        raise RecipeError(
            "method features runs in one process", got=f"--processes {processes}", do="Leave out --processes."
        )
    if recipe.train.micro_batch_tokens == "auto" and processes > 1:
        raise RecipeError(
            "train.micro_batch_tokens=auto works in one process only",
            got=f"--processes {processes}",
            do="Give a number: the tokens in a forward pass of each process.",
        )
    if recipe.train.parallel == FSDP and recipe.train.optimizer == "muon":
        raise RecipeError(
            "train.parallel=fsdp shards every matrix over the processes, and Muon needs whole matrices",
            do="Choose train.optimizer=adamw, or leave out train.parallel.",
        )


def machine(recipe: Recipe, processes: int) -> dict[str, str]:
    """What the exact bits of a training depend on besides its settings."""
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


def run(recipe: Recipe, run: Run) -> TrainResult:
    """Train, resuming from the newest checkpoint if there is one. Returns the resolved settings and the results."""
    from finetune.training import ranks

    ranks.call_others("train", str(run.directory))
    found = train_here(recipe, run)
    assert found.processes == ranks.processes(), "accelerate connects all processes that were started"
    return found


def train_here(recipe: Recipe, run: Run) -> TrainResult:
    """Train in this process, which may be one of several; keeps the best model in memory for later stages."""
    import os
    import time

    import torch

    from finetune.console import say, warn
    from finetune.recipe import FSDP
    from finetune.tasks.base import task_of
    from finetune.tasks.setup import BEST, build, fit, identity, with_tokens_that_fit
    from finetune.training import ranks
    from finetune.training.health import warnings_about
    from finetune.training.loop import set_threads
    from finetune.training.parallel import is_sharded
    from finetune.training.precision import device_type
    from finetune.training.sharing import together

    begun = time.monotonic()
    set_threads(recipe.train.threads)
    task, setup = task_of(recipe), build(recipe, run)
    device = torch.device(device_type(), int(os.environ.get("LOCAL_RANK", "0")) if device_type() == "cuda" else 0)
    if recipe.train.micro_batch_tokens == "auto":
        setup = with_tokens_that_fit(task, recipe, run, setup, device)
    settings, trainable = setup.settings, setup.trainable
    for line in [*setup.why, trainable.describe()]:
        say(f"  {line}")
    if recipe.train.parallel == FSDP and ranks.processes() == 1:
        say("  train.parallel=fsdp has no effect in one process")
    with together(evenly=recipe.train.parallel == FSDP):
        job = task.build_job(recipe, run, setup, device)
        found = fit(
            job, settings, run.directory, identity(recipe, run, reads(recipe)), set_up_seconds=time.monotonic() - begun
        )
    if ranks.rank() == 0:
        for line in warnings_about(run.path("train.jsonl")):
            warn(line)
    if not is_sharded(setup.model):
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
