"""The report's sections on why a classifier errs, from explanations.json."""

from collections.abc import Collection

from finetune.errors import shorten
from finetune.evaluation.explanations import ExplainedError, Explanations
from finetune.evaluation.shortcut import Shortcut
from finetune.report import plots
from finetune.report.blocks import NONE, Section, Table, Text, metric_cell, metric_name, sentence
from finetune.report.metric_text import metric_interval, metric_text, metric_value, p_text
from finetune.report.slices import slices_section
from finetune.tables.codes import GUIDE
from finetune.tables.findings import Finding, without_muted
from finetune.tasks.classify.score import LabelledEvaluation
from finetune.tasks.classify.sections.findings import evaluation_findings

_TEXT = 100  # characters of a training text


def explanation_sections(found: Explanations | None, muted: Collection[str]) -> list[Section]:
    """Findings, evidence on the errors, slices, the shortcut and changes; an empty list without explanations.

    muted: codes of findings that the recipe ignores.
    """
    if found is None:
        return []
    findings = without_muted(evaluation_findings(found), muted)
    return [
        *([_findings(findings)] if findings else []),
        *([_evidence(found)] if found.errors else []),
        slices_section(found.slices),
        *([shortcut_section(found.shortcut)] if found.shortcut else []),
        _flips(found),
    ]


def _findings(findings: list[Finding]) -> Section:
    rows = [[finding.code, sentence(finding.what), finding.do] for finding in findings]
    table = Table("Findings of the evaluation", ["Code", "Finding", "What to do"], rows, prose=frozenset({1, 2}))
    note = f"{GUIDE}, a file of the project that made this report, explains each code; --ignore CODE hides one in later runs."
    return Section("findings", "Findings", [table, Text(note, small=True)])


def _evidence(found: Explanations) -> Section:
    intro = (
        "For the most confident wrong predictions: the pieces of the text that moved the decision, and the nearest "
        "training rows. Each number is the drop in the log-odds of the predicted label against the true label when that "
        "piece is replaced by spaces: a positive number means that the piece supports the wrong label, a negative one that "
        "it supports the true label. This shows what the decision is sensitive to; it does not prove a cause. "
        f"The nearest rows are those with the most similar hidden state (cosine) among {found.compared:,} training rows: those "
        "most like the errors in words, and an even sample. "
        "Check their labels: a mislabelled training row can cause such an error."
    )
    table = Table(
        "What moved the decision",
        ["Row", "True", "Predicted", "Piece and drop\nin log-odds", "Nearest training rows (label, similarity)"],
        [[str(error.row), error.label, error.predicted, _pieces(error), _neighbours(error)] for error in found.errors],
        frozenset({0}),
        prose=frozenset({4}),
        headed=False,
        quotes=frozenset({3, 4}),
    )
    return Section("evidence", "Evidence on why errors happened", [Text(intro), table], training=True)


def _pieces(error: ExplainedError) -> str:
    return "\n".join(f"{shorten(span.text.strip() or span.text, 40)!r}\u00a0{span.shift:+.2f}" for span in error.spans)


def _neighbours(error: ExplainedError) -> str:
    return "\n".join(
        f"row {near.row} ({plots.cut(near.label)}, {near.similarity:.2f}): {shorten(near.text, _TEXT)!r}"
        for near in error.neighbours
    )


def shortcut_section(shortcut: Shortcut) -> Section:
    """The best single rule beside the model."""
    holds, otherwise = plots.cut(shortcut.holds), plots.cut(shortcut.otherwise)
    rule = f"The rule: a text that {shortcut.rule} is {holds}, any other text is {otherwise}."
    said = (
        f"A single rule classifies {metric_value('accuracy', shortcut.accuracy.value)} of the test rows correctly. The model "
        f"reaches {metric_value('accuracy', shortcut.model.value)}, always predicting the most frequent label "
        f"{metric_value('accuracy', shortcut.constant)}. "
    )
    if shortcut.suffices:
        said += (
            "The rule is as good as the model, or nearly: check that it will hold for new texts, as it may come from how "
            "the data were put together. "
        )
    if shortcut.where_wrong:
        said += (
            f"On the rows that the rule gets wrong, the model gets {metric_text(shortcut.where_wrong, 'accuracy')}; a low "
            "value means that the model follows the rule."
        )
    table = Table(
        "Test rows, with 95 % intervals",
        ["", "Accuracy"],
        [
            ["this model", metric_cell("accuracy", shortcut.model)],
            ["the rule", metric_cell("accuracy", shortcut.accuracy)],
        ],
        frozenset({1}),
        strong=frozenset({0}),
    )
    note = (
        f"The rule is the one that does best on the training rows, among all single words and punctuation marks, pairs of "
        f"them, and simple rules about the form of a text. McNemar's exact test of rule and model: {p_text(shortcut.p_value)}."
    )
    return Section(
        "shortcut", "Shortcut", [Text(rule, quotes=True), Text(said), table, Text(note, small=True)], training=True
    )


def _flips(found: Explanations) -> Section:
    rows = [
        [
            entry.change,
            f"{entry.share.n:,}",
            NONE if entry.share.value is None else metric_value("accuracy", entry.share.value),
            metric_interval("accuracy", entry.share),
        ]
        for entry in found.flips
    ]
    table = Table(
        "Decisions that flip", ["Change", "Rows it changes", "Flipped", "95 % interval"], rows, frozenset({1, 2, 3})
    )
    note = (
        f"Each change should not alter the correct label, and is applied on its own to {found.flip_rows:,} test rows, taken at "
        "even intervals from the file. Flipped: the share of changed rows whose predicted label changes."
    )
    return Section("flips", "Small changes to the text", [table, Text(note, small=True)])


def near_duplicates(found: Explanations | None, evaluation: LabelledEvaluation) -> list[Table | Text]:
    """The headline on the test rows that are not nearly a training or validation text."""
    if found is None:
        return []
    if not found.near.rows:
        return [Text("No test text is a near duplicate of a training or validation text.")]
    name = evaluation.headline.metric
    entries = [("all test rows", evaluation.headline), ("rows without a near duplicate", found.near.metrics[name])]
    said = (
        f"{found.near.rows:,} test rows are nearly, or exactly, the text of a training or validation row (Jaccard similarity "
        "of five-character pieces of at least 0.8). They make the score optimistic."
    )
    table = Table(
        "With and without near duplicates",
        ["", "Rows", metric_name(name), "95 % interval"],
        [[who, f"{own.n:,}", metric_value(name, own.value), metric_interval(name, own)] for who, own in entries],
        frozenset({1, 2, 3}),
        strong=frozenset({1}),
    )
    return [Text(said), table]
