"""The page of a classifier with many labels per row."""

import shlex

from finetune.console import aligned
from finetune.errors import counted
from finetune.evaluation.label_sets import FEW
from finetune.report import provenance
from finetune.report.blocks import Code, PageContent, Section, Table, Text
from finetune.report.metric_text import bracket_cell, metric_value
from finetune.report.page import Files, Page, fallback_notice, look_closer, make_page
from finetune.tasks.classify.data import ClassifierCard
from finetune.tasks.classify.long_texts import long_texts_section, use_note
from finetune.tasks.classify.many.score import ManyEvaluation
from finetune.tasks.classify.page import all_metrics, comparison, errors, leakage, tiles
from finetune.tasks.classify.score import verdict
from finetune.tasks.classify.sections.data import data_section
from finetune.tasks.classify.sections.seeds import seeds_section

_LISTED = 40  # labels in the table; if there are more, those with the lowest F1


def page(files: Files[ManyEvaluation, ClassifierCard]) -> PageContent:
    """The report, in order."""
    evaluation = files.evaluation
    return make_page(
        files,
        "Evaluation report",
        verdict(evaluation).replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0"),
        tiles(evaluation),
        [
            comparison(evaluation, files.train),
            *seeds_section(evaluation.seeds),
            all_metrics(evaluation),
            per_label_section(evaluation),
            sets(evaluation),
            provenance.training(files.log, files.train),
            *long_texts_section(evaluation.long_texts, evaluation.headline.n),
            errors(files.wrong),
            leakage(evaluation),
            data_section(files.card),
        ],
        use=[use(files.name, evaluation), look_closer(files, inside=False)],
        notice=fallback_notice(files),
    )


PAGE = Page(ManyEvaluation, ClassifierCard, page)


def per_label_section(evaluation: ManyEvaluation) -> Section:
    """Precision, recall, F1 and threshold of each label; if there are many, of the worst."""
    rows, caption = evaluation.per_label, "Test rows of each label"
    if len(rows) > _LISTED:
        known = [row for row in rows if row.f1 is not None]
        rows = sorted(known, key=lambda row: (row.f1 or 0.0, row.label))[:_LISTED]
        caption = f"The {len(rows)} labels with the lowest F1, of {len(evaluation.per_label)}"
    cells = [
        [
            row.label,
            *(metric_value(name, getattr(row, name)) for name in ("precision", "recall", "f1")),
            f"{row.threshold:.3f}",
            f"{row.support:,}",
            f"{row.predicted:,}",
        ]
        for row in rows
    ]
    columns = ["Label", "Precision", "Recall", "F1", "Threshold", "Test rows", "Predicted"]
    shared = f"chosen for its highest F1 on the validation set (labels with fewer than {FEW} validation rows share one)"
    rule = shared if evaluation.aim == "max-f1" else "0.5"
    absent = [row.label for row in evaluation.per_label if not row.support]
    note = f"A row gets a label if its probability is at least the label's threshold: {rule}."
    if absent:
        note += (
            f" {counted(len(absent), 'label has', 'labels have')} no test row; such a label counts as 0 in macro F1."
        )
    blocks = [Table(caption, columns, cells, frozenset(range(1, len(columns)))), Text(note, small=True)]
    return Section("labels", "Labels", blocks)


def sets(evaluation: ManyEvaluation) -> Section:
    """The numbers of true and predicted labels per row."""
    counts = sorted({*evaluation.rows_by_labels, *evaluation.rows_by_predicted}, key=int)
    rows = [
        [count, *(f"{part.get(count, 0):,}" for part in (evaluation.rows_by_labels, evaluation.rows_by_predicted))]
        for count in counts
    ]
    mean = (
        f"A test row has {evaluation.labels_per_row:.2f} labels on average; the model predicts "
        f"{evaluation.predicted_per_row:.2f}."
    )
    table = Table("Test rows by their number of labels", ["Labels", "True", "Predicted"], rows, frozenset({1, 2}))
    return Section("sets", "Labels per row", [Text(mean), table])


def use(name: str, evaluation: ManyEvaluation) -> Section:
    """How to predict with the model, in this project and elsewhere."""
    run = f"runs/{name}"
    return Section(
        "use",
        "How to use it",
        [
            Text("On the command line, for single texts or a whole file; labels are joined with ;"),
            Code(
                f'finetune predict {shlex.quote(run)} "some text"\n'
                f"finetune predict {shlex.quote(run)} --csv in.csv --text text --out out.csv"
            ),
            Text("In Python, with this project or with transformers alone:"),
            Code(
                "from finetune.tasks.classify.bundle import Bundle\n\n"
                f'labels, probabilities = Bundle.load({run!r}).predict(["some text"])'
            ),
            Code(
                "from transformers import pipeline\n\n"
                f'classify = pipeline("text-classification", model={run + "/export/hf"!r}, top_k=None)\n'
                'classify("some text", truncation=True)'
            ),
            Text("transformers gives each label's probability; the thresholds are in bundle.json.", small=True),
            *use_note(evaluation.long_texts),
        ],
    )


def many_table(evaluation: ManyEvaluation) -> list[str]:
    """The model and its baselines, one line each, with 95 % intervals."""
    names = ("f1_micro", "f1_macro", "subset_accuracy")
    rows = [(f"{evaluation.weights.name}, {evaluation.method}", evaluation.metrics, "")]
    rows += [(entry.name, entry.metrics, f"{entry.p_value:.3g}") for entry in evaluation.baselines]
    table = [["", *names, "McNemar p"]]
    table += [[name, *(bracket_cell(metrics[metric]) for metric in names), p] for name, metrics, p in rows]
    n = evaluation.headline.n
    return [f"test rows: {n:,}; 95 % intervals in brackets; McNemar: rows with exactly their labels", *aligned(table)]
