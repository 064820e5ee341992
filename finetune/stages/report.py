"""Stage ``report``: one HTML file and one Markdown file, from the files that the other stages left."""

from finetune.recipe import Recipe
from finetune.report.build import build_report
from finetune.run import Run

OUTPUTS = ["report/index.html", "report/report.md"]
LEAF = True  # no later stage reads it, and `finetune report` writes it anew


def run(recipe: Recipe, run: Run) -> dict:
    """Write report/index.html and report/report.md."""
    return {"report": build_report(run.directory).relative_to(run.directory).as_posix()}
