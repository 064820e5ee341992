"""Stage ``export``: the bundle in Hugging Face's layout, compared with transformers where that is installed."""

import shutil
from pathlib import Path

from finetune.config import validate
from finetune.console import say
from finetune.errors import RecipeError, RunError
from finetune.export.peft import write_adapter
from finetune.files import read_json
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.tasks.base import task_named
from finetune.tasks.setup import base_weights, best_model, trained_model

OUTPUTS = ["export/hf/*"]


def run(recipe: Recipe, run: Run) -> dict:
    """Write export/hf/. Raises WeightsError where transformers gives other logits than we do."""
    checked = task_named(recipe.task).export(recipe, run, *best_model(recipe, run))
    say(f"export: {checked['summary']}")
    return checked


def export_adapter(recipe: Recipe, run: Run) -> dict:
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
    recipe = validate(Recipe, read_json(found.path("recipe.json")), str(found.path("recipe.json")))
    if out is not None and out.exists():
        raise RunError(f"{out}: exists already", do="Give another --out.")
    with found.locked():
        found.record("evaluate")  # or RunError: a bundle holds what was measured on these weights
        FORMATS[format](recipe, found)
    where = found.path("export", format)
    return where if out is None else Path(shutil.copytree(where, out))


FORMATS = {"hf": run, "peft": export_adapter}
