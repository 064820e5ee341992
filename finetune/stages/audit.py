"""Stage ``audit``: list the rows whose label may be wrong, if that costs little compared with the run."""

from typing import TYPE_CHECKING

from finetune.recipe import Recipe
from finetune.run import Run

if TYPE_CHECKING:
    from finetune.evaluation.label_audit import Audited

READS = ("task", "weights", "split.seed")
OUTPUTS = ("label_audit.json", "label_suspects.csv")


def run(recipe: Recipe, run: Run) -> "Audited":
    """Write label_audit.json and label_suspects.csv, unless the task, the settings or the cost forbid it."""
    from importlib import import_module
    from importlib.util import find_spec

    from finetune.evaluation.label_audit import Audited

    name = f"finetune.tasks.{recipe.task}.audit"
    if find_spec(name) is None:
        return Audited(None, f"the rows of the task {recipe.task} have no labels that could be wrong")
    found: Audited = import_module(name).audit_run(recipe, run)
    return found
