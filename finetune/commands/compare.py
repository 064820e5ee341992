"""The command ``compare``: several runs of one task on the same test rows, as one table and one page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.console import aligned
from finetune.errors import RunError, listed, shorten
from finetune.evaluation.compare_runs import Pair, TestedRows, compare_pairs
from finetune.evaluation.results import Evaluation
from finetune.files import atomic_write, read_json
from finetune.report.blocks import PageContent, Section, Table, Text, metric_cell, metric_name
from finetune.report.build import render
from finetune.report.metric_text import bracket_cell, metric_value, p_text, points
from finetune.report.quotes import LEFT_OUT, without_quotes
from finetune.run import Run
from finetune.tasks.base import task_of

_DIFFERENT = 100  # rows that are listed
_TEXT_LIMIT = 300
_METRICS = ("accuracy", "f1", "f1_macro", "f1_micro", "subset_accuracy", "exact_match", "rouge_l", "chrf", "log_loss")


@dataclass(frozen=True)
class Measured:
    """A run's evaluation, and its result for each test row."""

    name: str
    task: str
    evaluation: Evaluation
    tested: TestedRows
    shows_texts: bool


def compare(directories: Sequence[Path], out: Path | None) -> list[str]:
    """Compare runs, write a page and return the lines for the screen.

    out: the directory of the page; by default a new one beside the first run. Raises RunError for runs that have no
    results per row, have not finished, belong to different tasks, or were tested on different rows.
    """
    if len(directories) < 2:
        raise RunError("compare needs two runs or more", got=str(len(directories)), do="finetune compare RUN RUN")
    found = [_read(path) for path in directories]
    names = _names(found, directories)
    for name, run in zip(names[1:], found[1:], strict=True):
        _refuse_other_rows(names[0], found[0], name, run)
    runs = dict(zip(names, found, strict=True))
    first = found[0].tested
    known = ~np.isnan(first.scores)
    pairs = compare_pairs({name: run.tested.scores[known] for name, run in runs.items()}, first.share)
    said = [pair_text(pair, first.metric, first.share) for pair in pairs]
    page = _page(runs, pairs, said)
    if not all(run.shows_texts for run in found):
        page = replace(page, sections=list(map(without_quotes, page.sections)), quoting=LEFT_OUT)
    target = out or Path(directories[0]).parent / f"compare-{'-'.join(run.name for run in found)}"[:120]
    for template, file_name in (("template.md.jinja", "report.md"), ("template.html.jinja", "index.html")):
        with atomic_write(target / file_name) as file:
            file.write(render(template, page))
    shown = _shown(found)
    table = [["", *shown]]
    table += [
        [
            name,
            *(
                bracket_cell(run.evaluation.metrics[metric]) if metric in run.evaluation.metrics else ""
                for metric in shown
            ),
        ]
        for name, run in runs.items()
    ]
    head = f"test rows: {len(first.rows):,}; 95 % intervals in brackets"
    return [head, *aligned(table), "", *said, "", f"page: {target / 'index.html'}"]


def pair_text(pair: Pair, metric: str = "accuracy", share: bool = True) -> str:
    """A pair in words: which one is better, or that the difference is noise."""
    value, low, high = (_points(metric, end) for end in pair.difference.known())
    size = f"{abs(value):.1f} points of {_in_a_sentence(metric)}"
    word = "right" if share else "better"
    test = (
        f"{'McNemar' if share else 'permutation test'} {p_text(pair.p_value)}, after Holm's correction "
        f"{p_text(pair.corrected)}; 95 % interval {low:+.1f} to {high:+.1f} points; only {pair.one} {word} on "
        f"{pair.only_one:,} rows, only {pair.other} on {pair.only_other:,}"
    )
    if not pair.only_one + pair.only_other:
        return (
            f"{pair.one} and {pair.other} {'are right on the same rows' if share else 'score the same on every row'}."
        )
    if not pair.differs:
        return f"{pair.one} and {pair.other}: the difference of {size} is within noise ({test})."
    better, worse = (pair.one, pair.other) if value > 0 else (pair.other, pair.one)
    return f"{better} is better than {worse} by {size} ({test})."


def _points(metric: str, value: float) -> float:
    found = points(metric, value)
    assert found is not None, f"{metric} is not in points"
    return found


def _in_a_sentence(metric: str) -> str:
    """accuracy, exact match, chrF, ROUGE-L."""
    name = metric_name(metric)
    return name if any(map(str.isupper, name[1:])) else name.lower()


def _read(directory: Path) -> Measured:
    run = Run.at(directory)
    recipe = run.recipe()
    task = task_of(recipe)
    finished = run.path("eval.json").is_file() and run.finished("evaluate")
    if finished and (changed := run.changed(run.record("evaluate"))):
        raise RunError(
            f"{directory}: files of this run have changed since they were written",
            got=listed(changed),
            do=f"To rebuild them: finetune run {run.path('recipe.json')} --name {run.name} --from evaluate",
        )
    tested = task.tested_rows(run) if finished else None
    if tested is None:
        raise RunError(
            f"{directory}: not a finished run with a result for each test row",
            got=f"task {recipe.task}, pipeline {recipe.pipeline}",
            known="runs with an eval.json, of classifiers and of tasks that generate texts",
            do="Finish the run, or leave it out.",
        )
    measured = run.path("eval.json")
    evaluation: Any = task.page.evaluation.from_json(read_json(measured), measured)
    return Measured(run.name, recipe.task, evaluation, tested, recipe.report.texts)


def _names(runs: Sequence[Measured], directories: Sequence[Path]) -> list[str]:
    """The runs' names, or their paths if names are equal. Raises RunError for a run that is given twice."""
    paths = [str(path) for path in directories]
    if len({path.resolve() for path in directories}) < len(paths):
        raise RunError("a run is given twice", got=listed(paths), do="Give each run once.")
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else paths


def _refuse_other_rows(first: str, one: Measured, second: str, other: Measured) -> None:
    """Raise RunError unless two runs have the same test rows, with the same targets, and the same metric."""
    rows, others = one.tested.rows, other.tested.rows
    if rows == others and one.tested.metric == other.tested.metric:
        return
    shared = len(set(rows) & set(others))
    raise RunError(
        f"{first} and {second} were tested on different rows, so their results cannot be compared",
        got=f"{len(rows):,} and {len(others):,} test rows, {shared:,} of them the same"
        + ("" if one.task == other.task else f"; tasks {one.task} and {other.task}"),
        do="Train both with the same data, split.seed and split settings, or score both on one file: finetune evaluate.",
    )


def _shown(runs: Sequence[Measured]) -> list[str]:
    return [name for name in _METRICS if any(name in run.evaluation.metrics for run in runs)]


def _page(runs: dict[str, Measured], pairs: list[Pair], said: list[str]) -> PageContent:
    names = _shown([*runs.values()])
    table = Table(
        "Test rows, with 95 % intervals",
        ["Run", "Weights", "Method", *map(metric_name, names)],
        [
            [
                name,
                run.evaluation.weights.name,
                run.evaluation.method,
                *(
                    metric_cell(metric, run.evaluation.metrics[metric]) if metric in run.evaluation.metrics else ""
                    for metric in names
                ),
            ]
            for name, run in runs.items()
        ],
        frozenset(range(3, 3 + len(names))),
    )
    first = next(iter(runs.values())).tested
    share, word = first.share, _in_a_sentence(first.metric)
    better = (
        ["Rows only the\nrun gets right", "Rows only the\nother gets right"]
        if share
        else ["Rows where the\nrun is better", "Rows where the\nother is better"]
    )
    tests = Table(
        "Each pair on the same rows",
        ["Run", "Other run", f"Difference in {word}", *better, "McNemar" if share else "Permutation test", "Corrected"],
        [_pair_cells(pair, first.metric) for pair in pairs],
        frozenset(range(2, 7)),
    )
    test = (
        "McNemar's exact test looks at the rows that only one of the two gets right"
        if share
        else "The permutation test flips the signs of the rows' differences at random"
    )
    note = (
        f"The difference is the first run's mean {word} over the rows minus the other's, with a paired bootstrap interval. "
        f"{test}; the last column is corrected for {len(pairs)} tests by Holm's method. From 0.05 on, a difference may be noise."
    )
    return PageContent(
        kind="Comparison of runs",
        name=", ".join(runs),
        verdict=" ".join(said).replace(" %", "\u00a0%"),
        sections=[
            Section("runs", "Runs", [table]),
            Section("pairs", "Pairs", [tests, Text(note, small=True)]),
            _different_rows({name: run.tested for name, run in runs.items()}),
        ],
        about=[f"{len(first.rows):,} test rows"],
    )


def _pair_cells(pair: Pair, metric: str) -> list[str]:
    value, low, high = (_points(metric, end) for end in pair.difference.known())
    return [
        pair.one,
        pair.other,
        f"{value:+.1f} points\n({low:+.1f} to {high:+.1f})",
        f"{pair.only_one:,}",
        f"{pair.only_other:,}",
        p_text(pair.p_value),
        p_text(pair.corrected),
    ]


def _different_rows(runs: dict[str, TestedRows]) -> Section:
    """The rows for which the runs give different results, those with the largest difference of scores first."""
    title, first = "Rows on which they differ", next(iter(runs.values()))
    differ = [at for at in range(len(first.rows)) if len({run.given[at] for run in runs.values()}) > 1]
    if not differ:
        return Section("rows", title, [Text("All runs give the same result for every test row.")])
    scores = np.nan_to_num(np.stack([run.scores for run in runs.values()]))
    spread = scores.max(axis=0) - scores.min(axis=0)
    agreed = metric_value("accuracy", 1 - len(differ) / len(first.rows))
    said = (
        f"The runs give different results on {len(differ):,} of {len(first.rows):,} test rows, and agree on {agreed}."
    )
    if len(differ) > _DIFFERENT:
        said += f" The {_DIFFERENT} with the largest differences in score are listed."
    table = Table(
        "Different results",
        ["Row", "Text", "True", *runs],
        [
            [
                first.rows[at][0],
                shorten(first.rows[at][1], _TEXT_LIMIT),
                *(
                    shorten(text, _TEXT_LIMIT)
                    for text in (first.rows[at][2], *(run.given[at] for run in runs.values()))
                ),
            ]
            for at in sorted(differ, key=lambda at: (-spread[at], at))[:_DIFFERENT]
        ],
        frozenset({0}),
        prose=frozenset({1}),
        headed=False,
        quotes=frozenset({1}) if not first.texts else frozenset(range(1, 3 + len(runs))),
    )
    return Section("rows", title, [Text(said), table])
