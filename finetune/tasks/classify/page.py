"""A classifier's page: metrics, confusion, curves, calibration, labels, errors, overlap, data, use."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from finetune.console import aligned
from finetune.evaluation.metrics import ClassScores
from finetune.evaluation.results import Difference, Metric
from finetune.records import TrainResult
from finetune.report import plots, provenance
from finetune.report.blocks import (
    LOWER_IS_BETTER,
    NONE,
    Code,
    Figure,
    PageContent,
    Section,
    Table,
    Text,
    Tile,
    metric_cell,
    metric_name,
    percent,
    seconds_text,
    sentence,
)
from finetune.report.inputs import Errors
from finetune.report.metric_text import bracket_cell, in_sentence, metric_interval, metric_value, p_text
from finetune.report.page import Files, Page, fallback_notice, look_closer, make_page
from finetune.tasks.classify.data import ClassifierCard
from finetune.tasks.classify.long_texts import long_texts_section, use_note
from finetune.tasks.classify.score import ClassifierEvaluation, LabelledEvaluation, subject, verdict
from finetune.tasks.classify.sections.choice import choice_section
from finetune.tasks.classify.sections.data import data_section
from finetune.tasks.classify.sections.decisions import decision_section
from finetune.tasks.classify.sections.explanations import explanation_sections, near_duplicates
from finetune.tasks.classify.sections.labels import suspects_section
from finetune.tasks.classify.sections.seeds import seeds_section

_MATRIX_LABELS = 20  # with more labels the worst confusions are listed instead
_WORST = 20


class Decisions(Protocol):
    """The part of an evaluation with a confusion matrix and the scores of each class."""

    @property
    def labels(self) -> list[str]: ...
    @property
    def confusion_matrix(self) -> list[list[int]]: ...
    @property
    def per_class(self) -> list[ClassScores]: ...


def page(files: Files[ClassifierEvaluation, ClassifierCard]) -> PageContent:
    """A classifier's report, in order."""
    evaluation = files.evaluation
    sections = [
        comparison(evaluation, files.train),
        *choice_section(evaluation),
        *seeds_section(evaluation.seeds, evaluation.choice is not None),
        all_metrics(evaluation),
        confusion(evaluation),
        *ranking(evaluation),
        calibration(evaluation),
        decision_section(evaluation.decision, evaluation.positive, evaluation.labels),
        provenance.training(files.log, files.train),
        per_label(evaluation),
        *long_texts_section(evaluation.long_texts, evaluation.headline.n),
        errors(files.wrong),
        *explanation_sections(files.explanations, files.recipe.get("ignore") or ()),
        *suspects_section(files.labels, files.name),
        leakage(evaluation, near_duplicates(files.explanations, evaluation)),
        data_section(files.card),
    ]
    said = verdict(evaluation).replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0")
    return make_page(
        files,
        "Evaluation report",
        said,
        tiles(evaluation),
        sections,
        use=[use(files.name, evaluation), look_closer(files, inside=evaluation.model is None)],
        notice=fallback_notice(files),
    )


PAGE = Page(ClassifierEvaluation, ClassifierCard, page)


def tiles(evaluation: LabelledEvaluation) -> list[Tile]:
    """The main results at the top of the page, the headline first."""
    metrics = evaluation.metrics
    names = [evaluation.headline.metric]
    names += [
        name
        for name in ("accuracy", "f1", "f1_macro", "subset_accuracy", "roc_auc", "log_loss")
        if name in metrics and name not in names and not (name == "f1_macro" and "f1" in metrics)
    ]
    return [
        Tile(
            _positive_name(name, evaluation),
            metric_value(name, metrics[name].value),
            metric_interval(name, metrics[name]),
            f"test, n = {metrics[name].n:,}",
        )
        for name in names[:4]
    ]


def _positive_name(name: str, evaluation: LabelledEvaluation) -> str:
    """The metric with the positive label if it is about that label."""
    of_positive = name in ("f1", "precision", "recall", "roc_auc", "average_precision")
    positive = evaluation.positive
    return f"{metric_name(name)} ({plots.cut(positive)})" if of_positive and positive else metric_name(name)


def comparison(evaluation: LabelledEvaluation, train: TrainResult | None) -> Section:
    """The model and the baselines on the same test rows."""
    headline = evaluation.headline.metric
    metrics = evaluation.metrics
    shown = ("accuracy", "f1" if "f1" in metrics else "f1_macro", "subset_accuracy", "log_loss")
    names = list(dict.fromkeys([headline, *(n for n in shown if n in metrics)]))
    columns = [
        "",
        *(_positive_name(name, evaluation) for name in names),
        f"Model \N{MINUS SIGN} baseline\n({metric_name(headline)})",
        "McNemar\n(accuracy)",
        "Time",
    ]

    def cells(entries: dict[str, Metric]) -> list[str]:
        return [metric_cell(name, entries[name]) for name in names]

    rows = [[subject(evaluation), *cells(metrics), NONE, NONE, seconds_text(train.seconds if train else None)]]
    rows += [
        [
            entry.name,
            *cells(entry.metrics),
            _points(entry.difference),
            p_text(entry.p_value),
            seconds_text(entry.seconds),
        ]
        for entry in evaluation.baselines
    ]
    table = Table(
        "Test set, with 95 % confidence intervals",
        columns,
        rows,
        frozenset(range(1, len(columns))),
        strong=frozenset({0}),
    )
    notes = [sentence(f"{entry.name}: {entry.note}") for entry in evaluation.baselines if entry.note]
    notes.append(
        f"The difference in {in_sentence(metric_name(headline))} is computed before rounding; its interval is from a paired "
        "bootstrap. "
        "McNemar's exact test asks whether model and baseline have the same accuracy on the same rows; p below 0.05 "
        "means that the difference is unlikely to be due to chance. Whether the summary at the top calls a "
        "difference noise depends on McNemar's p if the main metric is accuracy, and otherwise on the interval of the "
        "difference. Time: for the model, training; for a baseline, fitting and scoring."
    )
    return Section("baselines", "Model and baselines", [table, Text(" ".join(notes), small=True)])


def _points(difference: Difference) -> str:
    """A difference of shares in points, with its interval."""
    if difference.value is None:
        return NONE
    value, low, high = (100 * end for end in difference.known())
    return f"{value:+.1f} points\n({low:+.1f} to {high:+.1f})"


def all_metrics(evaluation: LabelledEvaluation) -> Section:
    """Every metric on test and validation."""
    validation = evaluation.validation
    rows = []
    for name, entry in evaluation.metrics.items():
        arrow = "\u00a0\N{DOWNWARDS ARROW}" if name in LOWER_IS_BETTER else ""
        rows.append(
            [
                _positive_name(name, evaluation) + arrow,
                metric_cell(name, entry),
                metric_cell(name, validation[name]) if name in validation else NONE,
            ]
        )
    n_test = evaluation.headline.n
    n_val = next((entry.n for entry in validation.values()), 0)
    columns = ["Metric", f"Test\n(n = {n_test:,})", f"Validation\n(n = {n_val:,})"]
    note = (
        "\N{DOWNWARDS ARROW}: lower is better. Accuracy has a Wilson interval; the other intervals are from the bootstrap. "
        "The checkpoint, the temperature and any chosen threshold come from the validation set, so the validation metrics "
        "are optimistic. Expected calibration error (ECE): the mean gap between probability and accuracy over bins; the "
        "bootstrap inflates it, so its interval is biased upward. Brier score: the mean squared error of the probabilities."
    )
    defined = [entry for entry in evaluation.metrics.values() if entry.value is not None]
    if any(entry.low == entry.high for entry in defined):
        note += (
            " A zero-width interval means that no resample differed, not that the value is certain: "
            "with so few errors, rely on the interval of the accuracy."
        )
    return Section(
        "metrics",
        "All metrics",
        [
            Table("Test and validation set, with 95 % confidence intervals", columns, rows, frozenset({1, 2})),
            Text(note, small=True),
        ],
    )


def confusion(evaluation: Decisions) -> Section:
    """The confusion matrix, or for many labels the most frequent confusions."""
    labels, matrix = evaluation.labels, evaluation.confusion_matrix
    total = sum(map(sum, matrix))
    blocks: list[Figure | Table | Text] = []
    if total and len(labels) <= _MATRIX_LABELS:
        table = Table(
            "Counts and share of the true label",
            ["True \\ predicted", *labels],
            [
                [label, *(f"{count:,} ({percent(count, sum(row))})" for count in row)]
                for label, row in zip(labels, matrix, strict=True)
            ],
            frozenset(range(1, len(labels) + 1)),
        )
        right = sum(matrix[i][i] for i in range(len(labels)))
        blocks.append(
            Figure(
                plots.confusion_picture(matrix, labels),
                "Confusion matrix",
                f"Confusion matrix of {len(labels)} labels: {right:,} of {total:,} test rows are on the diagonal.",
                "Rows are true labels, columns predicted labels. A good model is dark on the diagonal; "
                "a dark cell elsewhere is a frequent error. The colour is the share of the true label.",
                table,
                wide=len(labels) > 6,
            )
        )
    pairs = sorted(
        ((count, i, j) for i, row in enumerate(matrix) for j, count in enumerate(row) if i != j and count),
        key=lambda pair: (-pair[0], pair[1:]),
    )
    pairs = [pair for pair in pairs if pair[0] > 1] or pairs
    if len(labels) > 2 and pairs:
        blocks.append(
            Table(
                "Most frequent confusions",
                ["True", "Predicted", "Rows", "Share of the true label"],
                [
                    [labels[i], labels[j], f"{count:,}", percent(count, sum(matrix[i]))]
                    for count, i, j in pairs[:_WORST]
                ],
                frozenset({2, 3}),
            )
        )
    if not pairs:
        blocks.append(Text("Every test row is classified correctly." if total else "There are no test rows."))
    return Section("confusion", "Confusion matrix" if len(labels) <= _MATRIX_LABELS else "Confusions", blocks)


def ranking(evaluation: ClassifierEvaluation) -> list[Section]:
    """ROC and precision-recall curves; an empty list if there are none."""
    model, baseline, name = evaluation.curves.model, evaluation.curves.baseline, evaluation.curves.baseline_name
    if not model:
        return []
    positive = evaluation.positive
    of = f"positive label: {plots.cut(positive)}" if positive else model.of
    support = {row.label: row.support for row in evaluation.per_class}
    total = sum(support.values())
    share = support.get(positive, 0) / total if positive and total else None

    def areas(metric: str) -> str:
        texts = [
            f"{who} {metric_value(metric, entries[metric].value)}"
            for who, entries in (
                (subject(evaluation), evaluation.metrics),
                *((entry.name, entry.metrics) for entry in evaluation.baselines if entry.name == name),
            )
            if metric in entries
        ]
        return f" {metric_name(metric)}: {', '.join(texts)}." if texts else ""

    roc = Figure(
        plots.roc_picture(model.roc, baseline.roc if baseline else None, name, subject(evaluation)),
        "ROC curve",
        f"ROC curves of {subject(evaluation)} and of {name} ({of}).{areas('roc_auc')}",
        f"Closer to the upper left corner is better ({of}).{areas('roc_auc')}",
    )
    pr = Figure(
        plots.pr_picture(model.pr, baseline.pr if baseline else None, name, share, subject(evaluation)),
        "Precision-recall curve",
        f"Precision-recall curves of {subject(evaluation)} and of {name} ({of}).{areas('average_precision')}",
        f"Closer to the upper right corner is better ({of}). It says more than the ROC curve when that label is rare."
        f"{areas('average_precision')}",
    )
    return [Section("curves", "ROC and precision-recall curves", [roc, pr])]


def calibration(evaluation: ClassifierEvaluation) -> Section:
    """Calibration of the probabilities."""
    bins, blocks = evaluation.reliability, []
    if bins:
        table = Table(
            "Probability and accuracy by bin",
            ["Bin", "Rows", "Mean probability", "Accuracy"],
            [
                [f"{row.low:.2f} to {row.high:.2f}", f"{row.n:,}", f"{row.confidence:.3f}", f"{row.accuracy:.3f}"]
                for row in bins
            ],
            frozenset({1, 2, 3}),
        )
        blocks.append(
            Figure(
                plots.reliability_picture(bins),
                "Reliability diagram",
                f"Reliability of the predicted label's probability in {len(bins)} bins of the test rows.",
                "On the dotted line the model is calibrated: predictions made with probability 0.9 are correct in 90 % of the "
                "cases. Points below the line mean overconfidence, points above it underconfidence. The lower panel counts "
                "the rows of each bin; bins with few rows have wide intervals. The probabilities are those after "
                "temperature scaling.",
                table,
            )
        )
    temperature = evaluation.temperature
    effect = "less" if temperature > 1 else "more" if temperature < 1 else "neither more nor less"
    said = (
        f"Temperature scaling: the logits are divided by {temperature:.3f}, fitted on the validation set. This makes the "
        f"probabilities {effect} extreme and does not change which label is the most probable. "
    )
    metrics = [f"{metric_name(name)} {metric_value(name, evaluation.metrics[name].value)}" for name in ("ece", "brier")]
    return Section("calibration", "Calibration", [*blocks, Text(said + f"On the test set: {', '.join(metrics)}.")])


def per_label(evaluation: Decisions) -> Section:
    """Precision, recall and F1 of each label; if there are many, of the worst, and of all on request."""
    caption, every = "Metrics of each label on the test set", evaluation.per_class
    if len(every) <= _MATRIX_LABELS:
        return Section("labels", "Metrics by label", [_label_table(caption, every)])
    worst = sorted((row for row in every if row.support), key=lambda row: (row.f1, row.label))[:_WORST]
    tables = [
        _label_table(f"The {len(worst)} labels with the lowest F1, of {len(every)}", worst),
        replace(_label_table(f"All {len(every)} labels", every), folded=True),
    ]
    return Section("labels", "Metrics by label", tables)


def _label_table(caption: str, rows: Sequence[ClassScores]) -> Table:
    cells = [
        [
            row.label,
            *(metric_value(name, getattr(row, name)) for name in ("precision", "recall", "f1")),
            f"{row.support:,}",
        ]
        for row in rows
    ]
    return Table(caption, ["Label", "Precision", "Recall", "F1", "Test rows"], cells, frozenset({1, 2, 3, 4}))


def errors(found: Errors | None) -> Section:
    """The most confident wrong predictions."""
    if found is None:
        return Section("errors", "Errors", [Text("The run has no predictions.csv.")])
    if not found.wrong:
        return Section("errors", "Errors", [Text(f"All {found.total:,} test rows are classified correctly.")])
    shown = len(found.rows)
    some = "all of them" if shown == found.wrong else f"the {shown} most confident of them"
    intro = (
        f"{found.wrong:,} of {found.total:,} test rows are misclassified. The table lists {some}, with the most confident "
        "first; predictions.csv in the run's directory has every test row. Read the most confident errors first: often "
        "the label in the data is wrong. Row is the row's number in the data file, counted from 0 without the header."
    )
    table = Table(
        "Misclassified test rows",
        ["Row", "Text", "True", "Predicted", "Probability of\nthe predicted label"],
        [[row.row, row.text, row.label, row.predicted, f"{row.probability:.3f}"] for row in found.rows],
        frozenset({0, 4}),
        prose=frozenset({1}),
        headed=False,
        quotes=frozenset({1}),
    )
    return Section("errors", "Errors", [Text(intro), table])


def leakage(evaluation: LabelledEvaluation, near: Sequence[Table | Text] = ()) -> Section:
    """Texts that occur in several splits, and the headline without them. near: the same for near duplicates."""
    blocks: list[Table | Text] = [*provenance.overlap_table(evaluation.overlap, "text")]
    headline, clean = evaluation.headline, evaluation.clean
    if clean.n < headline.n:
        name = headline.metric

        def row(who: str, n: int, metric: Metric) -> list[str]:
            return [who, f"{n:,}", metric_value(name, metric.value), metric_interval(name, metric)]

        both = [
            row(f"{subject(evaluation)}, all test rows", headline.n, headline),
            row(f"{subject(evaluation)}, rows in no other split", clean.n, clean.metrics[name]),
        ]
        for entry in evaluation.baselines:
            if entry.clean:
                both.append(row(f"{entry.name}, rows in no other split", clean.n, entry.clean.metrics[name]))
        blocks.append(
            Table(
                "With and without the test rows that occur in other splits",
                ["", "Rows", _positive_name(name, evaluation), "95 % interval"],
                both,
                frozenset({1, 2, 3}),
                strong=frozenset({1}),
            )
        )
    else:
        blocks.append(
            Text("No test text occurs in the training or validation set, so all test metrics are on unseen texts.")
        )
    note = "After normalising: texts are compared without differences in case, digits, whitespace and Unicode variants."
    return Section("overlap", "Overlap between splits", [*blocks, Text(note, small=True), *near])


def use(name: str, evaluation: ClassifierEvaluation) -> Section:
    """How to predict with the model, in this project and elsewhere."""
    run = f"runs/{name}"
    changed = [
        part
        for part, value, usual in (
            ("temperature", evaluation.temperature, 1.0),
            ("threshold", evaluation.threshold, 0.5),
        )
        if value not in (None, usual)
    ]
    note = (
        f"transformers does not apply the {' and the '.join(changed)} above: "
        + (
            "its labels can differ from those of finetune predict."
            if "threshold" in changed
            else "it gives the same labels as finetune predict, with other probabilities."
        )
        if changed
        else ""
    )
    blocks = [
        Text("On the command line, for single texts or a whole file:"),
        Code(
            f'finetune predict {shlex.quote(run)} "some text"\n'
            f"finetune predict {shlex.quote(run)} --csv in.csv --text text --out out.csv"
        ),
        Text("In Python, with this project or with transformers alone:"),
        Code(
            "import finetune\n\n"
            f"classifier = finetune.TextClassifier.load({run + '/export/hf'!r})\n"
            'classifier.predict(["some text"]), classifier.predict_proba(["some text"])'
        ),
        Code(
            "from transformers import pipeline\n\n"
            f'classify = pipeline("text-classification", model={run + "/export/hf"!r})\n'
            'classify("some text", truncation=True)'
        ),
    ]
    if evaluation.model is not None:  # another won, which no other library loads
        python = f'import finetune\n\ntable = finetune.predict({run!r}, ["some text"])'
        blocks = [*blocks[:2], Text("In Python:"), Code(python)]
        note = f"The model alone is exported by: finetune export {shlex.quote(run)} --part model"
    notes = [*([Text(note, small=True)] if note else []), *use_note(evaluation.long_texts)]
    return Section("use", "How to use it", [*blocks, *notes])


def classifier_table(evaluation: ClassifierEvaluation) -> list[str]:
    """The model and its baselines, one line each, with 95 % intervals."""
    names = [name for name in ("accuracy", "f1", "f1_macro", "roc_auc") if name in evaluation.metrics]
    if "f1" in names:
        names.remove("f1_macro")
    own = f"{evaluation.weights.name}, {evaluation.method}"
    rows = [(own if evaluation.choice is None else subject(evaluation), evaluation.metrics, "")]
    rows += [(baseline.name, baseline.metrics, f"{baseline.p_value:.3g}") for baseline in evaluation.baselines]
    table = [["", *names, "McNemar p"]]
    table += [[name, *(bracket_cell(metrics[metric]) for metric in names), p] for name, metrics, p in rows]
    n = evaluation.headline.n
    return [f"test rows: {n:,}; 95 % intervals in brackets", *aligned(table)]
