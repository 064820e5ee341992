"""The command ``export``: write a finished run's weights in a given format, in the run or elsewhere."""

import shutil
from pathlib import Path

from finetune.errors import RecipeError, RunError
from finetune.export import FORMATS
from finetune.run import Run
from finetune.stages import export


def export_again(directory: Path, out: Path | None, format: str = "hf", quantize: str | None = None) -> Path:
    """Export a finished run again, and copy it to `out` if given. Returns the export's directory."""
    if format not in FORMATS:
        raise RecipeError("unknown export format", got=repr(format), known=", ".join(FORMATS))
    found = Run.at(directory)
    recipe = found.recipe()
    if out is not None and out.exists():
        raise RunError(f"{out}: already exists", do="Choose another --out.")
    with found.locked():
        found.record("evaluate")  # or RunError: a bundle holds what was measured on these weights
        export.write(recipe, found, format, quantize)
    where = found.path("export", format)
    return where if out is None else Path(shutil.copytree(where, out))
