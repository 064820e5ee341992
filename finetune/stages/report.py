"""Stage ``report``: one HTML file and one Markdown file, from the files that the other stages left."""

from pathlib import Path

from finetune.comparisons.architectures import page as architectures
from finetune.comparisons.methods import page as methods
from finetune.recipe import Recipe
from finetune.report.build import build_report
from finetune.run import Run
from finetune.tasks import TASKS
from finetune.tasks.base import task_named

OUTPUTS = ["report/index.html", "report/report.md"]
LEAF = True  # no later stage reads it, and `finetune report` writes it anew


def run(recipe: Recipe, run: Run) -> dict:
    """Write report/index.html and report/report.md."""
    return {"report": rebuild(run).relative_to(run.directory).as_posix()}


def rebuild(run: Run) -> Path:
    """The same from a run that may be finished long ago. Returns where index.html stands."""
    return build_report(run.directory, {name: task_named(name).page for name in TASKS} | {
        "compare": methods.PAGE, "architectures": architectures.PAGE})
