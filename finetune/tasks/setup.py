"""From a recipe to a training: base weights, model, what is trained, the job's settings, and back to the best model."""

from pathlib import Path

from torch import nn

from finetune.adapters.lora import merge
from finetune.checkpoints.fallback import MINI, RANDOM_BYTES, SCRATCH, write_random_bytes, write_scratch
from finetune.checkpoints.sources import WeightsSource, locate_weights
from finetune.errors import RunError
from finetune.files import read_json, sha256_json
from finetune.models.gpt import GPT
from finetune.recipe import Recipe
from finetune.run import Run, fingerprint
from finetune.tasks.base import TrainingSetup, task_named
from finetune.tokenizer import Tokenizer
from finetune.training import resume
from finetune.training.precision import choose_precision, device_type
from finetune.training.trainable import choose_settings


def base_weights(recipe: Recipe, run: Run) -> WeightsSource:
    """Where this run's starting weights stand. Raises RunError where their files are no longer those it began with."""
    found = locate_weights(recipe.weights, base=run.path("base"))
    if not found.pinned:
        began, now = run.result("download")["weights"]["sha256"], found.content()
        changed = [name for name in sorted({*began, *now}) if began.get(name) != now.get(name)]
        if changed:
            raise RunError(f"{found.directory}: the weights that this run began with have changed",
                           got=", ".join(changed), do="Put them back, or begin another run with another --name.")
    return found


def write_new_weights(recipe: Recipe, directory: Path) -> None:
    """Write the recipe's starting weights where they are new ones; others stand elsewhere already."""
    if recipe.weights == RANDOM_BYTES:
        write_random_bytes(directory, recipe.train.seed)
    elif recipe.weights == SCRATCH:
        write_scratch(directory, recipe.shape, recipe.train.seed)


def build(recipe: Recipe, run: Run) -> TrainingSetup:
    """The model on the run's starting weights, with what moves set free."""
    loaded = base_weights(recipe, run).load(recipe.train.dropout)
    gpt = getattr(loaded.model, "gpt", loaded.model)
    return assemble(recipe, gpt, loaded.tokenizer, loaded.report.parameters, run.result("prepare"))


def assemble(recipe: Recipe, gpt: GPT, tokenizer: Tokenizer | None, parameters: int, prepared: dict) -> TrainingSetup:
    """The task's model on top of a GPT, with what moves set free. prepared: what ``prepare`` returned."""
    rows = _training_rows(prepared, gpt)
    settings, why = choose_settings(recipe.train, parameters, is_pretrained(recipe), rows, device_type())
    precision, because = choose_precision(settings.precision, gpt.config.width)
    settings = settings.model_copy(update={"precision": precision})
    task = task_named(recipe.task)
    model = task.build_model(recipe, gpt, prepared)
    trainable = task.set_free(model, gpt, settings)
    return TrainingSetup(model, tokenizer, settings, trainable, [*why, f"precision {precision}: {because}"])


def identity(recipe: Recipe, run: Run) -> dict[str, str]:
    """Hashes of what a training rests on: a checkpoint of another identity is not gone on with."""
    return {"recipe": sha256_json(recipe.model_dump()), "data": fingerprint(run.record("prepare")),
            "weights": fingerprint(run.record("verify"))}


def is_pretrained(recipe: Recipe) -> bool:
    """Whether the starting weights have learnt anything."""
    return recipe.weights not in (RANDOM_BYTES, SCRATCH)


def _training_rows(prepared: dict, gpt: GPT) -> int:
    """Rows to train on; for a language model the blocks that fill its context, none where they are not counted yet."""
    if "splits" in prepared:
        return prepared["splits"]["train"]
    return prepared["tokens"]["train"] // gpt.config.context if "tokens" in prepared else 0

STARTS = {MINI: "mini, the small pretrained model that is bundled with this project", RANDOM_BYTES: "random weights"}
HOW_TO_GET_GPT2 = "To use GPT-2: connect, run `finetune weights get gpt2`, then run again under another --name."


def trained_model(recipe: Recipe, run: Run) -> tuple[nn.Module, Tokenizer]:
    """The model of the best checkpoint, in eval mode, with its adapters. Raises RunError where it is damaged."""
    method = run.result("train")["method"]  # not anew: on another machine `auto` may stand for something else
    decided = recipe.train.model_copy(update={"method": method})
    built = build(recipe.model_copy(update={"train": decided}), run)
    directory = resume.step_directory(run.path("checkpoints"), read_json(run.path("checkpoints", "best.json"))["step"])
    if why := resume.damage(directory):
        raise RunError(f"the best checkpoint, {directory.name}, is damaged", got=why, do="Run again with --from train.")
    resume.load_weights(directory, built.model)
    return built.model.eval(), built.tokenizer


def best_model(recipe: Recipe, run: Run) -> tuple[nn.Module, Tokenizer]:
    """The same with the adapters merged: what is measured is what is exported."""
    model, tokenizer = trained_model(recipe, run)
    return merge(model), tokenizer


def describe_start(weights: dict) -> dict:
    """The weights that were started from, with a sentence where they are not GPT-2's."""
    fallback = weights["name"] in STARTS
    note = f"This run started from {STARTS[weights['name']]}, not from GPT-2. {HOW_TO_GET_GPT2}" if fallback else ""
    return weights | {"fallback": fallback, "note": note}
