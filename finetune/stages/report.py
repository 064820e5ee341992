"""Stage ``report``: one HTML and one Markdown file, made from the outputs of the other stages."""

from dataclasses import dataclass
from pathlib import Path

from finetune.machine import timed
from finetune.recipe import Recipe
from finetune.records import Record
from finetune.run import Run

READS = None  # it shows every setting
NAMES_RUN = True
LEAF = True  # no later stage reads it, and `finetune report` rebuilds it
OUTPUTS = ("report/index.html", "report/report.md")


@dataclass(frozen=True)
class Reported(Record):
    """The result of this stage."""

    report: str  # its path in the run


def run(recipe: Recipe, run: Run) -> Reported:
    """Write report/index.html and report/report.md."""
    return _build(run)


def rebuild(run: Run) -> Path:
    """Rebuild the report of an existing run. Returns the path of index.html. Raises RunError for changed files."""
    with run.locked():
        run.recipe()  # or RunError: a report shows the settings
        run.refuse_changes(besides=("report", "export"))
        with timed() as seconds:
            reported = _build(run)
        run.renew("report", "report", reported, seconds())
        return run.path(reported.report)


def _build(run: Run) -> Reported:
    from importlib import import_module

    from finetune.comparisons import COMPARISONS
    from finetune.report.build import build_report
    from finetune.tasks import TASKS
    from finetune.tasks.base import task_named, task_of

    pages = {name: task_named(name).page for name in TASKS}
    recipe = run.recipe()
    pages[recipe.task] = task_of(recipe).page
    pages |= {name: import_module(f"finetune.comparisons.{name}.page").PAGE for name in COMPARISONS}
    return Reported(build_report(run.directory, pages).relative_to(run.directory).as_posix())
