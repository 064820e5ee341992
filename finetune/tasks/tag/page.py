"""A tagger's page: names found, by kind and by type of error, sentences with errors, data, use."""

import shlex

from finetune.console import aligned
from finetune.evaluation.results import Difference
from finetune.report import plots, provenance
from finetune.report.blocks import (
    NONE,
    Code,
    Figure,
    PageContent,
    Section,
    Table,
    Text,
    Tile,
    facts,
    metric_cell,
    metric_name,
    percent,
    seconds_text,
    sentence,
    value_text,
)
from finetune.report.metric_text import bracket_cell, metric_interval, metric_value, p_text
from finetune.report.page import Files, Page, fallback_notice, look_closer, make_page
from finetune.report.written import no_data_card, row_list, spread_text, unbroken
from finetune.tasks.tag.card import TagCard
from finetune.tasks.tag.score import METRICS, OUTCOMES, TagEvaluation, verdict
from finetune.tasks.tag.spans import Span, spans_of

_MATRIX_KINDS = 20
NAMES = {"accuracy": "Token accuracy (words)", "exact_match": "Sentences entirely correct"}
COLUMNS = {
    "right": "Correct",
    "other kind": "Wrong type",
    "other bounds": "Wrong boundaries",
    "both": "Wrong type\nand boundaries",
    "missed": "Missed",
}


def page(files: Files[TagEvaluation, TagCard]) -> PageContent:
    """The report, in order."""
    evaluation = files.evaluation
    sections = [
        comparison(evaluation, files.train.seconds if files.train else None),
        kinds(evaluation),
        errors(evaluation),
        acquaintance(evaluation),
        sentences(evaluation),
        limits(evaluation),
        provenance.training(files.log, files.train),
        data(files.card) if files.card else no_data_card(),
    ]
    return make_page(
        files,
        "Named-entity recognition report",
        unbroken(verdict(evaluation)),
        tiles(evaluation),
        sections,
        use=[use(files.name), look_closer(files, inside=False)],
        notice=fallback_notice(files),
    )


PAGE = Page(TagEvaluation, TagCard, page)


def label(name: str) -> str:
    """A metric's name on this page."""
    return NAMES.get(name) or metric_name(name)


def tiles(evaluation: TagEvaluation) -> list[Tile]:
    """The main results at the top of the page, the headline first."""
    names = dict.fromkeys([evaluation.headline.metric, "f1", "precision", "recall", "accuracy"])
    return [
        Tile(
            label(name),
            metric_value(name, evaluation.metrics[name].value),
            metric_interval(name, evaluation.metrics[name]),
            f"test, n = {evaluation.metrics[name].n:,} sentences",
        )
        for name in list(names)[:4]
    ]


def comparison(evaluation: TagEvaluation, seconds: float | None) -> Section:
    """The model and the baselines on the same sentences."""
    entries = {"this model": evaluation.metrics} | {own.name: own.metrics for own in evaluation.baselines}
    right = frozenset(range(1, len(entries) + 1))
    headline = frozenset({METRICS.index(evaluation.headline.metric)})
    scores = [[label(name), *(metric_cell(name, own[name]) for own in entries.values())] for name in METRICS]
    differences = [[label(name), *(_points(own.differences[name]) for own in evaluation.baselines)] for name in METRICS]
    validation = [
        [
            label(name),
            metric_cell(name, evaluation.metrics[name]),
            metric_cell(name, evaluation.validation[name]) if name in evaluation.validation else NONE,
        ]
        for name in (*METRICS, "log_loss")
    ]
    notes = [sentence(f"{own.name}: {own.note} ({seconds_text(own.seconds)})") for own in evaluation.baselines]
    notes.append(
        f"Training this model took {seconds_text(seconds)}. "
        "An entity (a name in the text) counts as correct if its type and both boundaries match, as in seqeval. Macro F1 is "
        "the mean over the types. Intervals (95 %) and paired tests resample whole sentences. Most words are outside any "
        "entity, so token accuracy is high for any method: rely on F1. The checkpoint was chosen on the validation set, so "
        "validation metrics tend to be optimistic."
    )
    against = [f"Model \N{MINUS SIGN}\n{own.name}" for own in evaluation.baselines]
    return Section(
        "results",
        "Model and baselines",
        [
            Table(
                "Test sentences, with 95 % confidence intervals", ["Metric", *entries], scores, right, strong=headline
            ),
            Table(
                "Paired differences in percentage points, with interval and p-value",
                ["Metric", *against],
                differences,
                right,
                strong=headline,
            ),
            Text(" ".join(notes), small=True),
            Table(
                "The model on the test and validation set",
                ["Metric", "Test", "Validation"],
                validation,
                frozenset({1, 2}),
            ),
        ],
    )


def _points(difference: Difference) -> str:
    value, low, high = (100 * end for end in difference.known())
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})\n{p_text(difference.p())}"


def kinds(evaluation: TagEvaluation) -> Section:
    """Precision, recall and F1 of each kind."""
    rows = [
        [
            own.kind,
            *(metric_cell(name, getattr(own, name)) for name in ("precision", "recall", "f1")),
            f"{own.names:,}",
            f"{own.predicted:,}",
        ]
        for own in evaluation.kinds
    ]
    columns = ["Type", "Precision", "Recall", "F1", "True\nentities", "Predicted\nentities"]
    return Section("kinds", "Results by entity type", [Table("Test set", columns, rows, frozenset(range(1, 6)))])


def errors(evaluation: TagEvaluation) -> Section:
    """The outcomes of the true names, and the confusion of words between kinds."""
    rows = [
        [own.kind, *(f"{own.outcomes[name]:,}" for name in OUTCOMES), f"{own.invented:,}"]
        for own in evaluation.outcomes
    ]
    blocks: list[Figure | Table | Text] = [
        Table(
            "What became of each true entity, and spurious ones",
            ["Type", *(COLUMNS[name] for name in OUTCOMES), "Spurious"],
            rows,
            frozenset(range(1, len(OUTCOMES) + 2)),
        ),
        Text(
            "Wrong type: the right words, with another type. Wrong boundaries: the right type, with extra or missing words, or "
            "split into several entities. Missed: no word of it was predicted as part of an entity. Spurious: predicted where "
            "no word is part of an entity.",
            small=True,
        ),
    ]
    matrix, names = evaluation.word_confusion, evaluation.word_kinds
    if len(names) <= _MATRIX_KINDS:
        table = Table(
            "Words by entity type",
            ["True \\ predicted", *names],
            [
                [name, *(f"{count:,} ({percent(count, sum(row))})" for count in row)]
                for name, row in zip(names, matrix, strict=True)
            ],
            frozenset(range(1, len(names) + 1)),
        )
        blocks.append(
            Figure(
                plots.confusion_picture(matrix, names),
                "Confusion matrix of words",
                f"Confusion matrix of words by the entity type that they are part of, {len(names)} by {len(names)}.",
                "Rows: true entity type of each word; columns: predicted. Except in the last row, the last column counts words "
                "of entities that were missed.",
                table,
                wide=len(names) > 6,
            )
        )
    return Section("errors", "Error analysis", blocks)


def acquaintance(evaluation: TagEvaluation) -> Section:
    """Recall on names that occur in training and on new ones."""
    rows = [[own.who, metric_cell("recall", own.seen), metric_cell("recall", own.unseen)] for own in evaluation.known]
    known = evaluation.known[0]
    columns = ["", f"Seen in training\n(n = {known.seen.n:,} entities)", f"Not seen\n(n = {known.unseen.n:,} entities)"]
    note = (
        "An entity counts as seen if the same words are an entity in the training set. The model can memorise those; the second "
        "column shows how well it recognises new entities from their spelling and context, which matters most on your own "
        "text."
    )
    return Section(
        "known",
        "Entities seen and not seen in training",
        [Table("Recall", columns, rows, frozenset({1, 2}), strong=frozenset({0})), Text(note, small=True)],
    )


def sentences(evaluation: TagEvaluation) -> Section:
    """Some sentences with errors, with the true and the predicted names."""
    total = evaluation.headline.n
    if not evaluation.wrong:
        return Section(
            "sentences", "Sentences with errors", [Text(f"All {total:,} test sentences are tagged correctly.")]
        )
    rows = [
        [str(own.row), marked(own.words, spans_of(own.tags)), marked(own.words, spans_of(own.predicted))]
        for own in evaluation.wrong
    ]
    intro = (
        f"{evaluation.wrong_sentences:,} of {total:,} test sentences have a word with a wrong tag. The table shows "
        f"{len(rows)} of them, taken at regular intervals. Row counts the sentences of the file from 0. A sentence with the "
        "same entities in both columns differs only in its B- and I- tags, which seqeval's rule reads as the same entity. Some "
        "errors may be wrong tags in the data."
    )
    return Section(
        "sentences",
        "Sentences with errors",
        [
            Text(intro),
            Table(
                "Entities in brackets, as [words | type]",
                ["Row", "True", "Predicted"],
                rows,
                frozenset({0}),
                prose=frozenset({1}),
                headed=False,
                quotes=frozenset({1, 2}),
            ),
        ],
    )


def marked(words: list[str], spans: list[Span]) -> str:
    """The sentence with its names in brackets: [Anna Berg | person] sleeps."""
    words = list(words)
    for span in spans:
        words[span.begin] = f"[{words[span.begin]}"
        words[span.end - 1] = f"{words[span.end - 1]} | {span.kind}]"
    return " ".join(words)


def limits(evaluation: TagEvaluation) -> Section:
    """The limits of the numbers."""
    said = [
        "A GPT reads from left to right: a word's tag depends on the word itself and on those before it, never on those that "
        "follow. In \u201cWashington said\u201d and \u201cWashington is cold\u201d it must tag the first word before seeing "
        "the rest. The logistic regression sees two words on either side.",
        "The test sentences are of the same kind as the training sentences. On other kinds of text, expect a lower recall.",
        "All results come from one training run, with one seed and one split.",
    ]
    if evaluation.cut_words:
        said.append(
            f"{evaluation.cut_words:,} words of the test set are beyond the model's context; they count as outside any entity."
        )
    return Section("limits", "Limitations", [Text(line) for line in said])


def data(card: TagCard) -> Section:
    """The source of the sentences, their splits, and what was truncated."""
    pairs = [
        *provenance.origin(card),
        ("Sentences", sum(own.sentences for own in card.splits.values())),
        ("Split", card.protocol),
        ("Split seed", None if card.protocol == "ordered" else card.seed),
        ("Skipped", "; ".join(f"{value_text(count)}: {why}" for why, count in card.dropped.items())),
        ("Tokens per sentence", spread_text(card.tokens)),
        ("Maximum length", f"{value_text(card.max_length)} tokens"),
        ("Words truncated", f"{card.cut_words:,}"),
        ("Sentences truncated", row_list(card.cut_rows, "rows")),
    ]
    names = {"val": "validation"}
    rows = [
        [what, *(f"{getattr(own, key):,}" for own in card.splits.values())]
        for what, key in (("sentences", "sentences"), ("words", "words"), ("tokens", "tokens"))
    ]
    rows += [
        [f"entities: {kind}", *(f"{own.names.get(kind, 0):,}" for own in card.splits.values())] for kind in card.kinds
    ]
    columns = ["", *(names.get(name, name) for name in card.splits)]
    return Section(
        "data",
        "Data",
        [
            *facts("Source", pairs),
            Table("Size of each split", columns, rows, frozenset(range(1, len(columns)))),
            *provenance.overlap_table(card.overlap, "sentence"),
            Text(
                "A training sentence, with its tags (B-: first word of an entity, I-: inside one, O: outside):",
                quotes=True,
            ),
            Code(card.example, quotes=True),
            *(Text(sentence(note)) for note in card.notes),
        ],
        training=True,
    )


def use(name: str) -> Section:
    """How to find names with the model, in this project and elsewhere."""
    run = f"runs/{name}"
    blocks = [
        Text("On the command line, for single texts or a column of a table:"),
        Code(
            f'finetune predict {shlex.quote(run)} "some text"\n'
            f"finetune predict {shlex.quote(run)} --csv in.csv --text text --out out.csv"
        ),
        Text("In Python, with this project or with transformers alone:"),
        Code(
            "from pathlib import Path\n\nfrom finetune.tasks.tag.bundle import TagBundle\n\n"
            f'names = TagBundle.load(Path({run + "/export/hf"!r})).names(["some text"])'
        ),
        Code(
            "from transformers import pipeline\n\n"
            f"tagger = pipeline('token-classification', model={run + '/export/hf'!r})\n"
            "tagger('some text')"
        ),
        Text(
            "transformers tags every token; use the tag of each word's last one. The README.md beside the weights shows how.",
            small=True,
        ),
    ]
    return Section("use", "How to use it", blocks)


def summary(evaluation: TagEvaluation) -> list[str]:
    """The model and its baselines, one line each, with 95 % intervals."""
    names, metric = ["precision", "recall", "f1"], evaluation.headline.metric
    names += [metric] * (metric not in names)
    rows = [["", *names, "p"]]
    rows.append(
        [
            f"{evaluation.weights.name}, {evaluation.method}",
            *(bracket_cell(evaluation.metrics[own]) for own in names),
            "",
        ]
    )
    rows += [
        [own.name, *(bracket_cell(own.metrics[key]) for key in names), f"{own.differences[metric].p():.3g}"]
        for own in evaluation.baselines
    ]
    return [
        f"test sentences: {evaluation.headline.n:,}; entities are counted as in seqeval; 95 % intervals in brackets; p is for "
        f"{metric}",
        *aligned(rows),
    ]
