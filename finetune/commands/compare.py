"""The command ``compare``: several classifiers' runs on the same test rows, as one table and one page."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.console import aligned
from finetune.errors import RunError, listed, shorten
from finetune.evaluation.compare_runs import Pair, compare_pairs
from finetune.evaluation.results import Metric
from finetune.files import atomic_write, read_json
from finetune.report.blocks import PageContent, Section, Table, Text, metric_cell, metric_name
from finetune.report.build import render
from finetune.report.metric_text import bracket_cell, metric_value, p_text
from finetune.run import Run
from finetune.tables.cells import unescape_formula
from finetune.tasks.base import task_of
from finetune.tasks.classify.score import LabelledEvaluation

_DIFFERENT = 100  # rows that are listed
_TEXT_LIMIT = 300
_METRICS = ("accuracy", "f1", "f1_macro", "f1_micro", "subset_accuracy", "log_loss")


@dataclass(frozen=True)
class Measured:
    """A run's evaluation, and what it predicted for each test row."""

    name: str
    evaluation: LabelledEvaluation
    rows: list[tuple[str, str, str]]  # row number, text, label
    predicted: list[str]


def compare(directories: Sequence[Path], out: Path | None) -> list[str]:
    """Compare runs, write a page and return the lines for the screen.

    out: where the page goes; by default a folder beside the first run. Raises RunError for runs that are no classifiers',
    have not finished, or were tested on other rows.
    """
    if len(directories) < 2:
        raise RunError("compare needs two runs or more", got=str(len(directories)), do="finetune compare RUN RUN")
    runs = [_read(path) for path in directories]
    names = _names(runs, directories)
    for name, run in zip(names[1:], runs[1:], strict=True):
        _refuse_other_rows(names[0], runs[0], name, run)
    right = {
        name: np.array([label == own for (*_, label), own in zip(run.rows, run.predicted, strict=True)])
        for name, run in zip(names, runs, strict=True)
    }
    pairs = compare_pairs(right)
    evaluations = {name: run.evaluation for name, run in zip(names, runs, strict=True)}
    predicted = {name: run.predicted for name, run in zip(names, runs, strict=True)}
    page = _page(evaluations, pairs, runs[0].rows, predicted)
    target = out or Path(directories[0]).parent / f"compare-{'-'.join(run.name for run in runs)}"[:120]
    for template, file_name in (("template.md.jinja", "report.md"), ("template.html.jinja", "index.html")):
        with atomic_write(target / file_name) as file:
            file.write(render(template, page))
    shown = _shown(evaluations)
    table = [["", *shown]]
    table += [
        [name, *(bracket_cell(own.metrics[metric]) if metric in own.metrics else "" for metric in shown)]
        for name, own in evaluations.items()
    ]
    head = f"test rows: {len(runs[0].rows):,}; 95 % intervals in brackets"
    return [head, *aligned(table), "", *map(pair_text, pairs), "", f"page: {target / 'index.html'}"]


def pair_text(pair: Pair) -> str:
    """A pair in words: which one is better, or that the difference is noise."""
    value, low, high = (100 * end for end in pair.difference.known())
    size = f"{abs(value):.1f} points of accuracy"
    test = (
        f"McNemar {p_text(pair.p_value)}, after Holm's correction {p_text(pair.corrected)}; 95 % interval {low:+.1f} to "
        f"{high:+.1f} points; only {pair.one} right on {pair.only_one:,} rows, only {pair.other} on {pair.only_other:,}"
    )
    if not pair.only_one + pair.only_other:
        return f"{pair.one} and {pair.other} are right on the same rows."
    if not pair.differs:
        return f"{pair.one} and {pair.other}: the difference of {size} is within noise ({test})."
    better, worse = (pair.one, pair.other) if value > 0 else (pair.other, pair.one)
    return f"{better} is better than {worse} by {size} ({test})."


def _read(directory: Path) -> Measured:
    run = Run.at(directory)
    recipe = run.recipe()
    if recipe.task != "classify" or not run.path("eval.json").is_file():
        raise RunError(
            f"{directory}: not a finished classifier's run",
            got=f"task {recipe.task}, pipeline {recipe.pipeline}",
            known="compare takes runs of the task classify that have an eval.json",
            do="Finish the run, or leave it out.",
        )
    if changed := run.changed(run.record("evaluate")):
        raise RunError(
            f"{directory}: files of this run have changed since they were written",
            got=listed(changed),
            do=f"Have them written again: finetune run {run.path('recipe.json')} --name {run.name} --from evaluate",
        )
    measured = run.path("eval.json")
    evaluation: LabelledEvaluation = task_of(recipe).page.evaluation.from_json(read_json(measured), measured)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open(run.path("predictions.csv"), encoding="utf-8", newline="") as file:
        table = [
            (
                row["row"],
                unescape_formula(row["text"]),
                unescape_formula(row["label"]),
                unescape_formula(row["predicted"]),
            )
            for row in csv.DictReader(file, strict=True)
        ]
    table.sort()
    return Measured(run.name, evaluation, [row[:3] for row in table], [predicted for *_, predicted in table])


def _names(runs: Sequence[Measured], directories: Sequence[Path]) -> list[str]:
    """The runs' names, or their paths if names are equal. Raises RunError for a run that is given twice."""
    paths = [str(path) for path in directories]
    if len({path.resolve() for path in directories}) < len(paths):
        raise RunError("a run is given twice", got=listed(paths), do="Give each run once.")
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else paths


def _refuse_other_rows(first: str, one: Measured, second: str, other: Measured) -> None:
    """Raise RunError if two runs were not tested on the same rows with the same labels."""
    if one.rows == other.rows:
        return
    shared = len(set(one.rows) & set(other.rows))
    raise RunError(
        f"{first} and {second} were tested on different rows, so their results cannot be compared",
        got=f"{len(one.rows):,} and {len(other.rows):,} test rows, {shared:,} of them the same",
        do="Train both with the same data, split.seed and split settings, or score both on one file: finetune evaluate.",
    )


def _shown(evaluations: dict[str, LabelledEvaluation]) -> list[str]:
    return [name for name in _METRICS if any(name in own.metrics for own in evaluations.values())]


def _page(
    evaluations: dict[str, LabelledEvaluation],
    pairs: list[Pair],
    rows: list[tuple[str, str, str]],
    predicted: dict[str, list[str]],
) -> PageContent:
    names = _shown(evaluations)
    table = Table(
        "Test rows, with 95 % intervals",
        ["Run", "Weights", "Method", *map(metric_name, names)],
        [
            [run, own.weights.name, own.method, *(_cell(name, own.metrics) for name in names)]
            for run, own in evaluations.items()
        ],
        frozenset(range(3, 3 + len(names))),
    )
    tests = Table(
        "Each pair on the same rows",
        ["Run", "Other run", "Difference of accuracy", "Only the run right", "Only the other", "McNemar", "Corrected"],
        [_pair_cells(pair) for pair in pairs],
        frozenset(range(2, 7)),
    )
    note = (
        "The difference is the first run's accuracy minus the other's, with a paired bootstrap interval. McNemar's exact "
        f"test looks at the rows that only one of the two gets right; the last column is corrected for {len(pairs)} tests "
        "by Holm's method. From 0.05 on, a difference may be noise."
    )
    return PageContent(
        kind="Comparison of runs",
        name=", ".join(evaluations),
        verdict=" ".join(map(pair_text, pairs)).replace(" %", "\u00a0%"),
        sections=[
            Section("runs", "Runs", [table]),
            Section("pairs", "Pairs", [tests, Text(note, small=True)]),
            _different_rows(rows, predicted),
        ],
        about=[f"{len(rows):,} test rows"],
    )


def _cell(name: str, metrics: dict[str, Metric]) -> str:
    return metric_cell(name, metrics[name]) if name in metrics else ""


def _pair_cells(pair: Pair) -> list[str]:
    value, low, high = (100 * end for end in pair.difference.known())
    return [
        pair.one,
        pair.other,
        f"{value:+.1f} points\n({low:+.1f} to {high:+.1f})",
        f"{pair.only_one:,}",
        f"{pair.only_other:,}",
        p_text(pair.p_value),
        p_text(pair.corrected),
    ]


def _different_rows(rows: list[tuple[str, str, str]], predicted: dict[str, list[str]]) -> Section:
    differ = [at for at in range(len(rows)) if len({own[at] for own in predicted.values()}) > 1]
    if not differ:
        return Section(
            "rows", "Rows on which they differ", [Text("All runs predict the same label for every test row.")]
        )
    agreed = metric_value("accuracy", 1 - len(differ) / len(rows))
    said = f"The runs predict different labels on {len(differ):,} of {len(rows):,} test rows, and agree on {agreed}."
    if len(differ) > _DIFFERENT:
        said += f" The first {_DIFFERENT} are listed."
    table = Table(
        "Different predictions",
        ["Row", "Text", "True", *predicted],
        [
            [rows[at][0], shorten(rows[at][1], _TEXT_LIMIT), rows[at][2], *(own[at] for own in predicted.values())]
            for at in sorted(differ, key=lambda at: int(rows[at][0]))[:_DIFFERENT]
        ],
        frozenset({0}),
        prose=1,
        headed=False,
    )
    return Section("rows", "Rows on which they differ", [Text(said), table])
