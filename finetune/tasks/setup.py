"""From a recipe to a training and its best model; shared by stages, estimator, comparisons and benchmarks.

base weights → the task's model → its trainable weights → the job → ``fit``.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.adapters.lora import merge
from finetune.checkpoints.fallback import MINI, RANDOM_BYTES, SCRATCH, write_random_bytes
from finetune.checkpoints.layouts import read_shape, write_model
from finetune.checkpoints.scratch import model_class, new_model, shape_config
from finetune.checkpoints.sources import WeightsSource, locate_weights
from finetune.checkpoints.store import LoadedCheckpoint
from finetune.config import chosen_values
from finetune.errors import RunError, WeightsError
from finetune.evaluation.results import Start, StartWeights
from finetune.files import damage, read_json, sha256_json, write_json
from finetune.models.bodies import Body
from finetune.models.gpt import GPT, GPTConfig
from finetune.recipe import Recipe, Train
from finetune.records import BestStep, Downloaded, Passes, Trained, TrainResult, WeightsOrigin
from finetune.run import Run, content
from finetune.tasks.base import AnyTask, B, E, M, P, Task, TrainingSetup, task_named, task_of
from finetune.tokenizer import Tokenizer
from finetune.training import features, loop, memory, resume
from finetune.training.job import Job
from finetune.training.precision import choose_precision, device_type, tf32, why_tf32
from finetune.training.trainable import choose_settings

STARTS = {MINI: "mini, the small pretrained model bundled with this project", RANDOM_BYTES: "random weights"}
HOW_TO_GET_GPT2 = (
    "To use GPT-2, run `finetune weights get gpt2` with a network connection, then run again with another --name."
)
PASSES = "checkpoints/micro_batch_tokens.json"
BASE, BEST = "base checkpoint", "best model"  # keys of a run's memory


def base_weights(recipe: Recipe, run: Run) -> WeightsSource:
    """Where this run's starting weights are. Raises RunError if their files have changed since the run began."""
    found = locate_weights(recipe.weights, base=run.path("base"))
    if not found.pinned:
        began, now = run.result("download", Downloaded).weights.sha256, found.content()
        changed = [name for name in sorted({*began, *now}) if began.get(name) != now.get(name)]
        if changed:
            raise RunError(
                f"{found.directory}: the weights have changed since this run began",
                got=", ".join(changed),
                do="Restore them, or start a new run with another --name.",
            )
    return found


def load_base(recipe: Recipe, run: Run) -> LoadedCheckpoint:
    """The starting weights: on the first call those that ``verify`` loaded in this process, else from disk."""
    kept = run.memory.pop(BASE, None)
    return kept or base_weights(recipe, run).load(recipe.train.dropout)


def write_new_weights(recipe: Recipe, directory: Path) -> None:
    """Write the starting weights if the recipe asks for new ones."""
    if recipe.weights == RANDOM_BYTES:
        write_random_bytes(directory, recipe.train.seed)
    elif recipe.weights == SCRATCH:
        task = task_named(recipe.task)
        tokenizer, architecture = task.new_tokenizer(recipe), task.architecture(recipe)
        config = shape_config(recipe.shape, architecture, tokenizer.vocab_size)
        write_model(directory, new_model(config, architecture, recipe.train.seed), tokenizer)


def check_start(recipe: Recipe, gpt_alone: bool = False) -> None:
    """Raise, before a run is created, if it cannot start from its weights, as far as these are available locally.

    gpt_alone: for a comparison that trains only GPT-2.
    """
    task, place = task_of(recipe), Path(recipe.weights).expanduser()
    body: type[Body] = GPT
    config = GPTConfig()
    if recipe.weights == SCRATCH:
        architecture = task.architecture(recipe)
        config = shape_config(recipe.shape, architecture, vocab_size=Tokenizer.of_bytes().vocab_size)
        body = model_class(config, architecture)
    elif place.is_dir():
        inside = place / "export" / "hf" if (place / "recipe.json").exists() else place
        if (inside / "config.json").is_file():
            body, config = read_shape(inside)
    if gpt_alone and body is not GPT:
        raise WeightsError(
            f"{recipe.weights}: a comparison starts from GPT-2's weights",
            got=f"{body.kind}'s weights",
            do="Give other weights, such as mini.",
        )
    task.check_start(recipe, body, config)


def is_pretrained(recipe: Recipe) -> bool:
    """Whether the starting weights are pretrained."""
    return recipe.weights not in (RANDOM_BYTES, SCRATCH)


def build(recipe: Recipe, run: Run) -> TrainingSetup[Any]:
    """The task's model on the run's starting weights, ready to train."""
    loaded, task = load_base(recipe, run), task_of(recipe)
    return assemble(
        task, recipe, loaded.body, loaded.tokenizer, loaded.report.parameters, run.result("prepare", task.prepared)
    )


def assemble(
    task: Task[P, B, M, E], recipe: Recipe, gpt: B, tokenizer: Tokenizer, parameters: int, prepared: P
) -> TrainingSetup[M]:
    """The task's model on top of a body, ready to train. parameters: the number of loaded parameters."""
    rows = prepared.training_rows(gpt.config.context)
    settings, why = choose_settings(recipe.train, parameters, is_pretrained(recipe), rows, device_type())
    precision, because = choose_precision(settings.precision, gpt.config.width)
    settings = settings.model_copy(update={"precision": precision})
    model = task.build_model(recipe, gpt, prepared)
    trainable = task.configure_trainable(model, gpt, settings)
    why = [*why, f"precision {precision}: {because}", *why_tf32(settings.tf32)]
    return TrainingSetup(model, task.tokenizer(recipe, tokenizer), settings, trainable, why)


def identity(recipe: Recipe, run: Run, keys: Sequence[str]) -> dict[str, str]:
    """Hashes of everything that a training depends on: the settings with these keys, the data, the weights.

    Training never resumes from a checkpoint with a different identity.
    """
    return {
        "recipe": sha256_json(chosen_values(recipe, keys)),
        "data": content(run.record("prepare")),
        "weights": content(run.record("verify")),
    }


def with_tokens_that_fit(
    task: AnyTask, recipe: Recipe, run: Run, setup: TrainingSetup[M], device: torch.device
) -> TrainingSetup[M]:
    """The setup with ``train.micro_batch_tokens`` determined, and saved in the run so that a resumed run uses the same."""
    file = run.path(PASSES)
    if file.exists():
        found = Passes.from_json(read_json(file), file)
    else:
        job = task.probe(recipe, run, setup, device).job
        if job.problem is not None:
            return setup
        found = Passes(memory.tokens_that_fit(job, setup.settings, device))
        file.parent.mkdir(exist_ok=True)
        write_json(file, found.to_json())
    settings = setup.settings.model_copy(update={"micro_batch_tokens": found.micro_batch_tokens})
    why = f"micro_batch_tokens {found.micro_batch_tokens:,}: fits in memory, for batches of {settings.batch_size} rows"
    return replace(setup, settings=settings, why=[*setup.why, why])


def fit(job: Job[Any], settings: Train, directory: Path, identity: dict[str, str], **options: float) -> Trained:
    """Train `job` and load the best checkpoint's weights into its model. options: those of ``loop.train``."""
    if job.problem is not None:
        found = features.train(job, settings, directory, options.get("set_up_seconds", 0.0))
    else:
        with tf32(settings.tf32):
            found = loop.train(job, settings, directory, identity, **options)
    resume.load_weights(resume.step_directory(directory / "checkpoints", found.best_step), job.model)
    return found


def trained_model(recipe: Recipe, run: Run) -> tuple[nn.Module, Tokenizer]:
    """The best checkpoint's model in eval mode, with its adapters. Raises RunError if the checkpoint is damaged."""
    method = run.result("train", TrainResult).method  # as recorded: on this machine `auto` may mean another method
    decided = recipe.train.model_copy(update={"method": method})
    setup = build(recipe.model_copy(update={"train": decided}), run)
    file = run.path("checkpoints", "best.json")
    directory = resume.step_directory(run.path("checkpoints"), BestStep.from_json(read_json(file), file).step)
    if why := damage(directory):
        raise RunError(f"the best checkpoint, {directory.name}, is damaged", got=why, do="Run again with --from train.")
    resume.load_weights(directory, setup.model)
    return setup.model.eval(), setup.tokenizer


def best_model(recipe: Recipe, run: Run) -> tuple[nn.Module, Tokenizer]:
    """The best checkpoint's model with its adapters merged, so that the evaluated model is the exported one.

    After a training in this process it is still in memory, else it is loaded from disk.
    """
    if BEST not in run.memory:
        run.memory[BEST] = trained_model(recipe, run)
    model, tokenizer = run.memory[BEST]
    return merge(model.eval()), tokenizer


def started_from(recipe: Recipe, run: Run) -> Start:
    """The method of a run and its starting weights, for its evaluation."""
    weights = run.result("download", Downloaded).weights
    return Start(run.result("train", TrainResult).method, start_weights(weights))


def start_weights(weights: WeightsOrigin) -> StartWeights:
    """The starting weights, with a note if they are the fallback and not GPT-2's."""
    fallback = weights.name in STARTS
    note = f"This run started from {STARTS[weights.name]}, not from GPT-2. {HOW_TO_GET_GPT2}" if fallback else ""
    return StartWeights(**vars(weights), fallback=fallback, note=note)
