"""The command ``export``: a finished run's weights in a format, in the run or elsewhere."""

import shutil
from pathlib import Path

from finetune.console import say
from finetune.errors import RecipeError, RunError
from finetune.export.peft import write_adapter
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.stages import export
from finetune.tasks.base import task_named
from finetune.tasks.setup import base_weights, trained_model


def export_adapter(recipe: Recipe, run: Run):
    """Write export/peft/. Raises RunError where the method was not lora."""
    model, _ = trained_model(recipe, run)
    checked = write_adapter(run, model, base_weights(recipe, run), task_named(recipe.task).adapter_texts(run))
    say(f"export: {checked['summary']}")
    return checked


def export_again(directory: Path, out: Path | None, format: str = "hf") -> Path:
    """Export a finished run anew, and copy it to `out` where that is given. Returns where it stands."""
    if format not in FORMATS:
        raise RecipeError("unknown export format", got=repr(format), known=", ".join(FORMATS))
    found = Run.at(directory)
    recipe = found.recipe()
    if out is not None and out.exists():
        raise RunError(f"{out}: exists already", do="Give another --out.")
    with found.locked():
        found.record("evaluate")  # or RunError: a bundle holds what was measured on these weights
        FORMATS[format](recipe, found)
    where = found.path("export", format)
    return where if out is None else Path(shutil.copytree(where, out))


FORMATS = {"hf": export.run, "peft": export_adapter}
