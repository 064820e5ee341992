"""The report of a cross-validation."""

from finetune.comparisons.folds.results import FoldsComparison
from finetune.evaluation.results import Difference
from finetune.report import plots
from finetune.report.blocks import (
    Figure,
    PageContent,
    Section,
    Table,
    Text,
    Tile,
    metric_cell,
    metric_name,
    seconds_text,
    sentence,
)
from finetune.report.metric_text import metric_interval, metric_value, p_text
from finetune.report.page import Files, Page, fallback_notice, make_page
from finetune.tasks.classify.data import ClassifierCard
from finetune.tasks.classify.page import confusion, errors, per_label
from finetune.tasks.classify.score import TFIDF
from finetune.tasks.classify.sections.data import data_section


def verdict(comparison: FoldsComparison) -> str:
    """The accuracy over folds, and whether the difference from TF-IDF is more than noise."""
    own, other = comparison.metrics["accuracy"].mean, comparison.baseline["accuracy"].mean
    difference = comparison.difference["accuracy"]
    points, p_value = 100 * difference.known_value(), p_text(difference.p())
    said = (
        f"Accuracy {metric_value('accuracy', own.value)} ({metric_interval('accuracy', own)}), the mean of "
        f"{len(comparison.fold_rows)} folds; every one of the {comparison.rows:,} rows was predicted once. "
        f"{TFIDF} on the same folds: {metric_value('accuracy', other.value)}"
    )
    if difference.p() >= 0.05:
        return f"{said}; the difference of {abs(points):.1f} points is within noise (corrected t test {p_value})."
    better = "the model is better" if points > 0 else "the baseline is better"
    return f"{said}; {better} by {abs(points):.1f} points (corrected t test {p_value})."


def screen_table(comparison: FoldsComparison) -> list[str]:
    """The folds for the screen, one line per fold."""
    names = list(comparison.difference)
    rows = [["", "rows", *names, *(f"TF-IDF {name}" for name in names)]]
    rows += [row for row, _ in zip(_fold_rows(comparison), comparison.fold_rows, strict=True)]
    means = [comparison.metrics[name].mean for name in names] + [comparison.baseline[name].mean for name in names]
    cells = [metric_cell(name, mean) for name, mean in zip(names * 2, means, strict=True)]
    rows.append(["mean", f"{comparison.rows:,}", *cells])
    rows = [[cell.replace("\n", " ") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def page(files: Files[FoldsComparison, ClassifierCard]) -> PageContent:
    """The cross-validation as a report."""
    comparison = files.evaluation
    return make_page(
        files,
        "Cross-validation",
        verdict(comparison).replace(" %", "\u00a0%"),
        _tiles(comparison),
        [
            _over_folds(comparison),
            _each_fold(comparison),
            confusion(comparison),
            per_label(comparison),
            errors(files.wrong),
            data_section(files.card, divided=False),
        ],
        notice=fallback_notice(files),
    )


PAGE = Page(FoldsComparison, ClassifierCard, page)


def _tiles(comparison: FoldsComparison) -> list[Tile]:
    """The model's metrics and TF-IDF's accuracy."""
    note = f"mean of {len(comparison.fold_rows)} folds"
    shown = [(metric_name(name), name, found.mean) for name, found in comparison.metrics.items()]
    shown.append((f"{TFIDF}: accuracy", "accuracy", comparison.baseline["accuracy"].mean))
    return [
        Tile(title, metric_value(name, mean.value), metric_interval(name, mean), note) for title, name, mean in shown
    ]


def _over_folds(comparison: FoldsComparison) -> Section:
    names, difference = list(comparison.metrics), comparison.difference
    table = Table(
        "Means over the folds, with 95 % intervals",
        ["", *map(metric_name, names), "Accuracy minus TF-IDF's", "p"],
        [
            [
                "this model",
                *(metric_cell(name, comparison.metrics[name].mean) for name in names),
                _points(difference["accuracy"]),
                p_text(difference["accuracy"].p()),
            ],
            [TFIDF, *(metric_cell(name, comparison.baseline[name].mean) for name in names), "", ""],
        ],
        frozenset(range(1, len(names) + 3)),
        strong=frozenset({0}),
    )
    both = [comparison.metrics["accuracy"], comparison.baseline["accuracy"]]
    figure = Figure(
        plots.forest_picture(
            ["this model", TFIDF],
            [found.mean for found in both],
            [[100 * value for value in found.by_fold] for found in both],
            "accuracy, %",
        ),
        "Accuracy",
        "Mean accuracy over the folds of the model and of TF-IDF, with 95 % intervals.",
        "The bar is the mean over the folds with its interval, the small marks are the folds.",
        wide=True,
    )
    note = (
        "Each model is trained on the rows of the other folds, of which a part chooses the checkpoint, the temperature "
        "and the threshold. Two models share most of their training rows, so their results are not independent: the "
        "intervals and the p value use the corrected variance of Nadeau and Bengio (2003). They show how much the "
        "mean would vary with another division of such data. To use a model, train one on all rows: finetune classify "
        "without --folds."
    )
    notes = [Text(note, small=True)]
    if comparison.baseline_note:
        notes.append(Text(sentence(f"{TFIDF} of the first fold: {comparison.baseline_note}"), small=True))
    return Section("folds", "Over all folds", [figure, table, *notes])


def _each_fold(comparison: FoldsComparison) -> Section:
    names = list(comparison.difference)
    columns = ["Fold", "Rows", *map(metric_name, names), *(f"TF-IDF:\n{metric_name(name)}" for name in names)]
    rows = [
        [*row, seconds_text(seconds), f"{epochs:.1f}"]
        for row, seconds, epochs in zip(_fold_rows(comparison), comparison.seconds, comparison.epochs, strict=True)
    ]
    return Section(
        "each",
        "Each fold",
        [
            Table(
                "Every row is in one fold", [*columns, "Time", "Epochs"], rows, frozenset(range(1, len(columns) + 2))
            ),
            Text(
                f"Method {comparison.method}, {comparison.device}, threads: {comparison.threads}. Rows with the same "
                "normalised text, and rows of one group, are in the same fold.",
                small=True,
            ),
        ],
    )


def _fold_rows(comparison: FoldsComparison) -> list[list[str]]:
    """The number, the rows and the shares of each fold."""
    found = []
    for fold, count in enumerate(comparison.fold_rows):
        values = [
            metric_value(name, part[name].by_fold[fold])
            for part in (comparison.metrics, comparison.baseline)
            for name in comparison.difference
        ]
        found.append([str(fold + 1), f"{count:,}", *values])
    return found


def _points(difference: Difference) -> str:
    value, low, high = (100 * end for end in difference.known())
    return f"{value:+.1f} points\n({low:+.1f} to {high:+.1f})"
