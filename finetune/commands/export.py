"""The command ``export``: write a finished run's weights in a given format, in the run or elsewhere."""

import shutil
from pathlib import Path

from finetune.errors import RecipeError, RunError
from finetune.evaluation.choice import MODEL
from finetune.export import FORMATS
from finetune.files import damage, remove, sync_directory, temporary_path, writing
from finetune.machine import timed
from finetune.run import Run
from finetune.stages import export


def export_again(
    directory: Path,
    out: Path | None,
    format: str = "hf",
    quantize: str | None = None,
    all_texts: bool = False,
    part: str | None = None,
) -> Path:
    """Export a finished run again, and copy it to `out` if given. Returns the export's directory."""
    if all_texts and format != "hf":
        raise RecipeError("--all-texts needs --format hf", got=f"--format {format}", do="Leave it out.")
    if format not in FORMATS:
        raise RecipeError("unknown export format", got=repr(format), known=", ".join(FORMATS))
    if part not in (None, MODEL):
        raise RecipeError("unknown part of a bundle", got=repr(part), known=MODEL)
    found = Run.at(directory)
    recipe = found.recipe()
    if out is not None and out.exists():
        raise RunError(f"{out}: already exists", do="Choose another --out.")
    with found.locked():
        found.record("evaluate")  # or RunError: a bundle contains the evaluation
        found.refuse_changes(besides=("report", "export"))
        with timed() as seconds:
            exported = export.write(recipe, found, format, quantize, all_texts, part)
        found.renew("export", f"export/{format}", exported, seconds())
        where = found.path("export", format)
        return where if out is None else _copy(where, Path(out))


def _copy(source: Path, out: Path) -> Path:
    """Copy a directory to `out`, which appears whole or not at all. Raises RunError if another process was faster."""
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = temporary_path(out)
        try:
            shutil.copytree(source, draft)
            if why := damage(draft):
                raise RunError(
                    f"{out}: the copy differs from {source}", got=why, do="Check the disk, then export again."
                )
            try:
                draft.rename(out)
            except OSError:
                if out.exists():
                    raise RunError(f"{out}: already exists", do="Choose another --out.") from None
                raise
            sync_directory(out.parent)
        finally:
            remove(draft)
    return out
