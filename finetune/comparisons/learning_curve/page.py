"""The report of a learning curve: would more labels help?"""

from finetune.comparisons.learning_curve.results import CurveComparison, CurvePoint, Extrapolated
from finetune.console import aligned
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
from finetune.report.metric_text import metric_interval, metric_text, metric_value, p_text
from finetune.report.page import Files, Page, fallback_notice, make_page
from finetune.tasks.classify.data import ClassifierCard
from finetune.tasks.classify.score import TFIDF
from finetune.tasks.classify.sections.data import data_section


def verdict(comparison: CurveComparison) -> str:
    """The accuracy on all rows, and whether more labels would raise it."""
    last = comparison.points[-1]
    said = (
        f"With {last.rows:,} training rows: accuracy {metric_text(last.accuracy, 'accuracy')}, {TFIDF} "
        f"{metric_value('accuracy', last.baseline.value)}."
    )
    return " ".join([said, more_labels("the model", comparison.model), more_labels(TFIDF, comparison.baseline)])


def more_labels(who: str, found: Extrapolated | None) -> str:
    """Whether more labels would help, in a sentence or two, with the error of the extrapolation."""
    if found is None:
        return f"There are too few trainings to say whether more labels would help {who}."
    now, double = found.now, found.double
    if found.law.rate_low <= 0:
        return (
            f"It is unclear whether more labels would help {who}: over {found.law.trainings} trainings, the error does not "
            "fall by more than the noise."
        )
    return (
        f"More labels would help {who}: twice as many ({double.rows:,} rows) would reduce the error from "
        f"{_percent(now.value)} to about {_percent(double.value)} ({_percent(double.low)} to {_percent(double.high)})."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def screen_table(comparison: CurveComparison) -> list[str]:
    """The curve for the screen, one line per share."""
    rows = [["rows", "trainings", "accuracy", "TF-IDF accuracy", "difference", "p"]]
    rows += [
        [
            f"{point.rows:,}",
            str(len(point.by_seed)),
            metric_cell("accuracy", point.accuracy),
            metric_cell("accuracy", point.baseline),
            _points(point.difference),
            p_text(point.p_value),
        ]
        for point in comparison.points
    ]
    n = comparison.points[-1].accuracy.n
    lines = aligned([[cell.replace("\n", " ") for cell in row] for row in rows])
    return [f"test rows: {n:,}; means of the trainings, 95 % intervals in brackets", *lines]


def page(files: Files[CurveComparison, ClassifierCard]) -> PageContent:
    """The learning curve as a report."""
    comparison = files.evaluation
    return make_page(
        files,
        "Learning curve",
        verdict(comparison).replace(" %", "\u00a0%"),
        _tiles(comparison),
        [_curve(comparison), _expected(comparison), data_section(files.card)],
        notice=fallback_notice(files),
    )


PAGE = Page(CurveComparison, ClassifierCard, page)


def _tiles(comparison: CurveComparison) -> list[Tile]:
    """The accuracy of the model and of TF-IDF on all rows, and the expected error on twice as many."""
    last = comparison.points[-1]
    note = f"{last.rows:,} training rows"
    tiles = [
        Tile(name, metric_value("accuracy", own.value), metric_interval("accuracy", own), note)
        for name, own in (("Accuracy", last.accuracy), (f"{TFIDF}: accuracy", last.baseline))
    ]
    if comparison.model:
        double = comparison.model.double
        value, low, high = (100 * (1 - share) for share in (double.value, double.high, double.low))
        tiles.append(
            Tile(
                "Expected accuracy", f"{value:.1f}\u00a0%", f"{low:.1f} to {high:.1f}", f"{double.rows:,} training rows"
            )
        )
    return tiles


def _curve(comparison: CurveComparison) -> Section:
    """The measured points, as a picture and a table."""
    points, f1 = comparison.points, "f1" if comparison.positive else "f1_macro"
    columns = ["Training rows", "Trainings", "Accuracy", "TF-IDF:\naccuracy", "Difference", "p", metric_name(f1)]
    columns += [f"TF-IDF:\n{metric_name(f1)}", "Method", "Time"]
    rows = [
        [*_row(point), metric_value(f1, point.f1.value), metric_value(f1, point.baseline_f1.value)] for point in points
    ]
    rows = [[*row, point.method, seconds_text(point.seconds)] for row, point in zip(rows, points, strict=True)]
    curves = {
        "this model": [(point.rows, 100 * point.accuracy.known_value()) for point in points],
        TFIDF: [(point.rows, 100 * point.baseline.known_value()) for point in points],
    }
    shown = ", ".join(f"{point.rows:,} rows {metric_value('accuracy', point.accuracy.value)}" for point in points)
    figure = Figure(
        plots.curves_picture(curves, "Test accuracy, %", "Training rows"),
        "Accuracy and training rows",
        f"Test accuracy of this model and of {TFIDF} over the number of training rows: {shown}.",
        "Means over the trainings. A curve that still rises at its right end says that more labels would help.",
        wide=True,
    )
    note = (
        "Each training draws a new stratified sample of the training rows. The test rows and the "
        f"{comparison.validation_rows:,} validation rows are always the same, which flatters small shares. The difference "
        "is the model's accuracy minus TF-IDF's on the same rows, with p from a paired bootstrap over test rows; intervals "
        "are over test rows. A row is given its most probable label."
    )
    blocks = [
        figure,
        Table("On the same test rows, with 95 % intervals", columns, rows, frozenset(range(8))),
        Text(note, small=True),
    ]
    if comparison.baseline_note:
        blocks.append(Text(sentence(f"{TFIDF} on all rows: {comparison.baseline_note}"), small=True))
    return Section("curve", "Learning curve", blocks)


def _row(point: CurvePoint) -> list[str]:
    return [
        f"{point.rows:,} ({point.share:.0%})",
        str(len(point.by_seed)),
        metric_cell("accuracy", point.accuracy),
        metric_cell("accuracy", point.baseline),
        _points(point.difference),
        p_text(point.p_value),
    ]


def _expected(comparison: CurveComparison) -> Section:
    """The extrapolated errors, and the error of such an extrapolation."""
    fitted = [(name, own) for name, own in (("this model", comparison.model), (TFIDF, comparison.baseline)) if own]
    blocks: list[Text | Table] = [
        Text(
            " ".join(
                more_labels(name, own) for name, own in (("the model", comparison.model), (TFIDF, comparison.baseline))
            )
        )
    ]
    if fitted:
        rows = [
            [
                f"{name}, {expected.rows:,} rows",
                _percent(expected.value),
                f"{_percent(expected.low)} to {_percent(expected.high)}",
            ]
            for name, own in fitted
            for expected in (own.now, own.double, own.quadruple)
        ]
        table = Table("Expected error rate", ["", "Error", "95 % interval of one training"], rows, frozenset({1, 2}))
        blocks += [table, Text(" ".join(_back(name, own) for name, own in fitted))]
    note = (
        "The error is assumed to follow a power law of the number of training rows (Hestness et al. 2017), fitted by least "
        "squares to the logarithms of all trainings. The interval is that of one further training on the same test rows, if "
        "the curve continues as it began, which nothing guarantees: different labels, or a floor set by wrong labels, would "
        "bend it. It does not include the sampling noise of the test rows, which is in the intervals above."
    )
    return Section("expected", "Would more labels help?", [*blocks, Text(note, small=True)])


def _back(name: str, own: Extrapolated) -> str:
    """The error of the same extrapolation from the smaller shares."""
    if own.back is None:
        return ""
    inside = "inside" if own.back.low <= own.measured <= own.back.high else "outside"
    return (
        f"Fitted without its last point, the curve of {name} predicts an error of {_percent(own.back.value)} "
        f"({_percent(own.back.low)} to {_percent(own.back.high)}) there; the measured error is {_percent(own.measured)}, "
        f"{inside} the interval."
    )


def _points(difference: Difference) -> str:
    value, low, high = (100 * end for end in difference.known())
    return f"{value:+.1f} points\n({low:+.1f} to {high:+.1f})"
