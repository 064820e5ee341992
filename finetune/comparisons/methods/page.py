"""The report of a comparison: all fine-tuning methods in one table and one picture."""

from finetune.comparisons.methods.results import MethodCandidate, MethodsComparison
from finetune.errors import counted
from finetune.evaluation.results import Difference
from finetune.report import plots
from finetune.report.blocks import (
    NONE,
    Figure,
    PageContent,
    Section,
    Table,
    Text,
    Tile,
    bytes_text,
    metric_cell,
    metric_name,
    seconds_text,
    sentence,
)
from finetune.report.metric_text import metric_text, metric_value, p_text
from finetune.report.page import Files, Page, fallback_notice, make_page
from finetune.tasks.classify.data import ClassifierCard
from finetune.tasks.classify.score import TFIDF
from finetune.tasks.classify.sections.data import data_section


def verdict(comparison: MethodsComparison) -> str:
    """The reference's accuracy, and which candidates differ from it by more than noise."""
    reference = _reference(comparison)
    said = [
        f"{reference.label[:1].upper()}{reference.label[1:]} ({comparison.why}): accuracy "
        f"{metric_text(reference.metric('accuracy'), 'accuracy')}, the mean of {_seeds(comparison)}."
    ]
    others = [(entry.label, entry.difference) for entry in comparison.candidates if entry.difference]
    for word, sign in (("Better", 1), ("Worse", -1)):
        found = [
            label
            for label, difference in others
            if difference.p_value < 0.05 and sign * difference.metric("accuracy").known_value() > 0
        ]
        if found:
            said.append(f"{word} than this by more than noise: {'; '.join(found)}.")
    level = [label for label, difference in others if difference.p_value >= 0.05]
    if level:
        said.append(f"Difference within noise: {'; '.join(level)}.")
    return " ".join(said)


def screen_table(comparison: MethodsComparison) -> list[str]:
    """The comparison for the screen, one line per candidate."""
    metric = _metric(comparison)
    rows = [["", "trained", "time", "peak", "accuracy", metric, "difference", "p (Holm)"]]
    for entry in comparison.candidates:
        moves = "" if entry.trainable is None else f"{entry.trainable:,}"
        difference = entry.difference
        rows.append(
            [
                entry.label,
                moves,
                seconds_text(entry.seconds),
                bytes_text(entry.peak_bytes),
                metric_cell("accuracy", entry.metric("accuracy")),
                metric_cell(metric, entry.metric(metric)),
                _points(difference.metric("accuracy")) if difference else "",
                p_text(difference.p_value) if difference else "reference",
            ]
        )
    rows = [[cell.replace("\n", " ") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    n = comparison.candidates[0].metric("accuracy").n
    return [
        f"test rows: {n:,}; means of {_seeds(comparison)}, 95 % intervals in brackets",
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
    ]


def page(files: Files[MethodsComparison, ClassifierCard]) -> PageContent:
    """The comparison as a report."""
    comparison = files.evaluation
    sections = [
        _accuracies(comparison),
        _costs(comparison),
        _seeds_table(comparison),
        _reading(comparison),
        data_section(files.card),
    ]
    return make_page(
        files,
        "Comparison of methods",
        verdict(comparison).replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0"),
        _tiles(comparison),
        sections,
        notice=fallback_notice(files),
    )


PAGE = Page(MethodsComparison, ClassifierCard, page)


def _reference(comparison: MethodsComparison) -> MethodCandidate:
    return next(entry for entry in comparison.candidates if entry.name == comparison.reference)


def _tiles(comparison: MethodsComparison) -> list[Tile]:
    """The reference, the best of the others and TF-IDF."""
    others = [entry for entry in comparison.candidates if entry.name not in (comparison.reference, TFIDF)]
    best = max(others, key=lambda entry: entry.metric("accuracy").known_value(), default=None)
    shown = [
        (_reference(comparison), "reference"),
        *([(best, "highest test accuracy of the others")] if best else []),
        (comparison.candidates[-1], "baseline"),
    ]
    tiles = []
    for entry, note in shown:
        accuracy = entry.metric("accuracy")
        value, low, high = accuracy.known()
        tiles.append(
            Tile(
                f"{entry.label}: accuracy",
                metric_value("accuracy", value),
                f"{100 * low:.1f} to {100 * high:.1f}",
                f"{note}, n = {accuracy.n:,}",
            )
        )
    return tiles


def _accuracies(comparison: MethodsComparison) -> Section:
    metric = _metric(comparison)
    named = metric_name(metric) + (f" ({plots.cut(comparison.positive)})" if comparison.positive else "")
    candidates, rows = comparison.candidates, []
    for entry in candidates:
        difference = entry.difference
        beside = (
            [NONE, "reference", NONE]
            if difference is None
            else [
                _points(difference.metric("accuracy")),
                p_text(difference.p_value),
                _points(difference.metric(metric)),
            ]
        )
        rows.append(
            [
                entry.label,
                metric_cell("accuracy", entry.metric("accuracy")),
                metric_cell(metric, entry.metric(metric)),
                *beside,
            ]
        )
    table = Table(
        "Test rows, with 95 % intervals",
        ["", "Accuracy", named, "Accuracy minus\nreference's", "p (Holm)", "F1 minus\nreference's"],
        rows,
        frozenset(range(1, 6)),
        strong=frozenset(i for i, entry in enumerate(candidates) if entry.name == comparison.reference),
    )
    best = max(candidates, key=lambda entry: entry.metric("accuracy").known_value())
    figure = Figure(
        plots.forest_picture(
            [entry.label for entry in candidates],
            [entry.metric("accuracy") for entry in candidates],
            [[100 * fit["accuracy"] for fit in entry.by_seed] for entry in candidates],
        ),
        "Accuracy",
        f"Test accuracy of {len(rows)} candidates with 95 % intervals; the highest is {best.label}.",
        "The dot is the mean over the seeds, the bar its interval over test rows; each small mark is one seed. If "
        "bars overlap widely, their order says little; the paired test in the table is more sensitive.",
        wide=True,
    )
    note = (
        f"Values are means over {_seeds(comparison)}; the bootstrap intervals show how much they would vary with other "
        "test rows. Differences are measured on the same test rows, where each row counts with the "
        "share of seeds that predict it correctly. p: paired bootstrap of the accuracy with Holm's correction for the "
        "number of candidates; below 0.05 the difference is unlikely to come from the choice of test rows. It says "
        "nothing about other seeds; for those see the table of seeds."
    )
    if any(entry.metric(metric).low == entry.metric(metric).high for entry in candidates):
        note += " A zero-width F1 interval means that the candidate predicts no positive, or every row correctly."
    return Section("accuracy", "Accuracy of each method", [figure, table, Text(note, small=True), *_clean(comparison)])


def _clean(comparison: MethodsComparison) -> list:
    """Accuracy without the test rows whose text occurs in train or validation."""
    first = comparison.candidates[0]
    n, clean = first.metric("accuracy").n, first.clean.n
    if clean == n:
        return [Text("No test text occurs in train or validation.", small=True)]
    rows = [
        [
            entry.label,
            metric_value("accuracy", entry.metric("accuracy").value),
            metric_value("accuracy", entry.clean.value),
        ]
        for entry in comparison.candidates
    ]
    return [
        Table(
            "With and without the test rows whose text also occurs in train or validation",
            ["", f"All {n:,} rows", f"{clean:,} rows in\nno other split"],
            rows,
            frozenset({1, 2}),
        )
    ]


def _costs(comparison: MethodsComparison) -> Section:
    rows = []
    for entry in comparison.candidates:
        if entry.trainable is not None and entry.total is not None:
            rows.append(
                [
                    entry.label,
                    f"{entry.trainable:,}",
                    f"{100 * entry.trainable / entry.total:.2f}\u00a0%",
                    f"{entry.epochs:.1f}",
                    NONE if entry.lr is None else f"{entry.lr:g}",
                    seconds_text(entry.seconds),
                    bytes_text(entry.peak_bytes),
                ]
            )
        else:
            rows.append([entry.label, *[NONE] * 4, seconds_text(entry.seconds), NONE])
    table = Table(
        "Means over the seeds",
        ["", "Trained\nparameters", "Share", "Epochs", "Learning\nrate", "Time", "Peak memory"],
        rows,
        frozenset(range(1, 7)),
    )
    return Section(
        "costs",
        "Cost of each method",
        [
            table,
            Text(
                "Time: from loading the weights to the last step, including one pass of each text through frozen blocks. "
                "Learning rate and epochs depend on the method unless the recipe sets them; training stops early when "
                f"validation no longer improves. Device: {comparison.device}, {counted(comparison.threads, 'thread')}, precision "
                f"{', '.join(sorted({entry.precision for entry in comparison.candidates if entry.precision}))}. "
                "Peak memory: of the training's process, which also includes the libraries.",
                small=True,
            ),
        ],
    )


def _seeds_table(comparison: MethodsComparison) -> Section:
    rows = [
        [entry.label, *(f"{100 * fit['accuracy']:.2f}" for fit in entry.by_seed)]
        for entry in comparison.candidates
        if entry.name != TFIDF
    ]
    columns = ["", *(f"Training {i}" for i in range(1, comparison.seeds + 1))]
    return Section(
        "seeds",
        "Variation between seeds",
        [
            Table("Test accuracy of each training, in percent", columns, rows, frozenset(range(1, len(columns)))),
            Text(
                "The seed determines the head, the order of the rows and, for the random start, all weights. "
                "The split is the same. Logistic regression does not depend on the seed and is run once.",
                small=True,
            ),
        ],
    )


def _reading(comparison: MethodsComparison) -> Section:
    names = {entry.name for entry in comparison.candidates}
    said = {
        "first-token": "Read at the first token: with causal attention this token sees only itself, so the classifier knows "
        "only the first token of a text.",
        "padded": "Padded: every text is padded with end-of-text tokens to the length of the longest training "
        "text, longer texts are truncated, and the head reads the last padding token. Textbooks often do this; "
        "compared with reading the last token of the text, it wastes computation on padding.",
        "full-random": "Random start: a model of the same shape with random weights, with its own learning rate and number of "
        "epochs unless the recipe sets them. If the others start from pretrained weights, its gap to 'all weights' is "
        "the value of pretraining.",
        "features": "Logistic regression on the states: the text passes through the unchanged model once, and the head is "
        "the solution on the states of the last tokens, without an intercept; validation chooses the regularisation.",
        "lora": "LoRA trains low-rank matrices that are added to the frozen ones (Hu et al. 2021, arXiv:2106.09685).",
    }
    note = comparison.candidates[-1].note
    blocks = [Text(text) for name, text in said.items() if name in names]
    return Section("reading", "How to read it", [*blocks, *([Text(sentence(f"{TFIDF}: {note}"))] if note else [])])


def _metric(comparison: MethodsComparison) -> str:
    return "f1" if comparison.positive is not None else "f1_macro"


def _seeds(comparison: MethodsComparison) -> str:
    return counted(comparison.seeds, "seed")


def _points(difference: Difference) -> str:
    value, low, high = (100 * end for end in difference.known())
    return f"{value:+.1f}\n({low:+.1f} to {high:+.1f})"
