"""The command ``labels``: the rows of a run whose label may be wrong, and what correcting them changed."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from finetune.console import aligned, program, say
from finetune.errors import RunError, shorten
from finetune.evaluation.intervals import mcnemar
from finetune.evaluation.label_audit import counts_text, planted_text
from finetune.evaluation.metrics import paired_difference
from finetune.files import read_json
from finetune.report.blocks import seconds_text
from finetune.report.metric_text import METRIC_NAMES, metric_text, p_text
from finetune.run import Run
from finetune.stages.report import rebuild
from finetune.tables.cells import unescape_formula
from finetune.tasks.base import task_of
from finetune.tasks.classify.audit import STATES, TFIDF_FEATURES, against, expected_seconds, read_audit, write_audit
from finetune.tasks.classify.score import ClassifierEvaluation
from finetune.tasks.classify.sections.labels import notes

SHOWN = 20


def list_suspects(directory: Path) -> Iterator[str]:
    """The most suspicious rows of a run as lines; searches for them first if the run has not."""
    run = Run.at(directory)
    recipe = run.recipe()
    searched = recipe.model_copy(update={"classify": recipe.classify.model_copy(update={"audit": "on"}), "ignore": ()})
    if why := against(searched):
        raise RunError(f"{directory}: has no list of wrong labels", got=why)
    run.record("evaluate")  # or RunError: the search needs the prepared rows and the time of the baseline
    audit = read_audit(run)
    if audit is None:
        with run.locked():
            run.refuse_changes(besides=("report", "export"))
            costs = expected_seconds(recipe, run)
            say(f"searching for wrong labels: about {seconds_text(sum(costs.values()))}")
            audit = write_audit(recipe, run, [TFIDF_FEATURES, STATES])
        rebuild(run)
    yield from (counts_text(audit), planted_text(audit), *notes(audit))
    if not audit.worst:
        return
    rows = [["row", "split", "label", "suggested", "probability", "text"]]
    for own in audit.worst[:SHOWN]:
        rows.append(
            [
                str(own.row),
                own.split,
                shorten(own.label, 30),
                shorten(own.suggested, 30),
                f"{own.quality:.3f}",
                shorten(own.text, 60),
            ]
        )
    yield ""
    yield from aligned(rows)
    path = run.path("label_suspects.csv")
    yield ""
    yield f"all of them: {path}"
    yield "copy it to fixes.csv, correct labels in its column label or mark rows in its column drop, then:"
    yield f"    {program()} labels {directory} --apply fixes.csv"


def before_and_after(before: Path, after: Path) -> list[str]:
    """The metrics of two runs on the test rows that both have, and whether the difference is more than noise."""
    runs = Run.at(before), Run.at(after)
    found, rows = [], []
    for run in runs:
        path = run.path("eval.json")
        evaluation = task_of(run.recipe()).page.evaluation.from_json(read_json(path), path)
        assert isinstance(evaluation, ClassifierEvaluation), "a run with fixes has one label per row"
        found.append(evaluation)
        rows.append(_predictions(run))
    labels = found[0].labels
    if found[1].labels != labels or [own[:2] for own in rows[0]] != [own[:2] for own in rows[1]]:
        raise RunError(
            f"{after}: its test rows differ from those of {before}", do="Compare runs that differ only in their fixes."
        )
    y, old, new = (
        np.array([labels.index(own[at]) for own in part]) for part, at in ((rows[0], 1), (rows[0], 2), (rows[1], 2))
    )
    metric = found[0].headline.metric
    positive = labels.index(found[0].positive) if found[0].positive else None
    difference = paired_difference(metric, y, new, old, len(labels), positive, 1000, 0)
    p_value = mcnemar(new == y, old == y)
    table = [
        [f"{word}:", run.name, f"{METRIC_NAMES[metric]} {metric_text(own.headline, metric)}"]
        for word, run, own in zip(("before", "after"), runs, found, strict=True)
    ]
    value, low, high = (100 * end for end in difference.known())
    noise = "more than noise" if (low > 0 or high < 0) and p_value < 0.05 else "within noise"
    return [
        "",
        f"on the same {len(y):,} test rows, with their original labels:",
        *aligned(table),
        f"difference {value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}), McNemar {p_text(p_value)}: {noise}",
    ]


def _predictions(run: Run) -> list[tuple[str, str, str]]:
    """The row, the label and the predicted label of each test row."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open(run.path("predictions.csv"), encoding="utf-8", newline="") as file:
        return [
            (own["row"], unescape_formula(own["label"]), unescape_formula(own["predicted"]))
            for own in csv.DictReader(file, strict=True)
        ]
