"""A tagger's page: names found, by kind and by how they go wrong, sentences with errors, data, use."""

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
from finetune.report.page import Files, Page, fallback_notice, make_page
from finetune.report.written import no_data_card, row_list, spread_text, unbroken
from finetune.tasks.tag.card import TagCard
from finetune.tasks.tag.score import METRICS, OUTCOMES, TagEvaluation, verdict
from finetune.tasks.tag.spans import Span, spans_of

_MATRIX_KINDS = 20
NAMES = {"accuracy": "Accuracy of words", "exact_match": "Sentences without an error"}
COLUMNS = {
    "right": "Right",
    "other kind": "Other kind",
    "other bounds": "Other bounds",
    "both": "Both wrong",
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
        "Names in sentences",
        unbroken(verdict(evaluation)),
        tiles(evaluation),
        sections,
        use=[use(files.name)],
        notice=fallback_notice(files),
    )


PAGE = Page(TagEvaluation, TagCard, page)


def label(name: str) -> str:
    """A metric's name on this page."""
    return NAMES.get(name) or metric_name(name)


def tiles(evaluation: TagEvaluation) -> list[Tile]:
    """The numbers at the head, the headline first."""
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
        "A name is right if its kind, its first and its last word are, as in seqeval. Macro F1 is the mean over the kinds. "
        "Intervals (95 %) and paired tests resample whole sentences. Most words are outside a name, so accuracy of words is "
        "high for any method: read F1. The best checkpoint was chosen on validation, so its numbers there are optimistic."
    )
    against = [f"Model minus\n{own.name}" for own in evaluation.baselines]
    return Section(
        "results",
        "Model and baselines",
        [
            Table("Test sentences, with 95 % intervals", ["Metric", *entries], scores, right, strong=headline),
            Table(
                "Differences in points, with interval and p", ["Metric", *against], differences, right, strong=headline
            ),
            Text(" ".join(notes), small=True),
            Table("The model on test and validation", ["Metric", "Test", "Validation"], validation, frozenset({1, 2})),
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
    columns = ["Kind", "Precision", "Recall", "F1", "Names", "Predicted"]
    return Section("kinds", "Kinds of names", [Table("Names in the test", columns, rows, frozenset(range(1, 6)))])


def errors(evaluation: TagEvaluation) -> Section:
    """What became of the true names, and which words are taken for which kind."""
    rows = [
        [own.kind, *(f"{own.outcomes[name]:,}" for name in OUTCOMES), f"{own.invented:,}"]
        for own in evaluation.outcomes
    ]
    blocks: list[Figure | Table | Text] = [
        Table(
            "What became of each true name",
            ["Kind", *(COLUMNS[name] for name in OUTCOMES), "Invented"],
            rows,
            frozenset(range(1, len(OUTCOMES) + 2)),
        ),
        Text(
            "Other kind: the right words, called something else. Other bounds: the right kind, with a word too many or too "
            "few, or taken for several names. Invented: predicted where no word is part of a name.",
            small=True,
        ),
    ]
    matrix, names = evaluation.word_confusion, evaluation.word_kinds
    if len(names) <= _MATRIX_KINDS:
        table = Table(
            "Words by kind",
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
                "Words by kind",
                f"Confusion matrix of words by the kind of name that they are part of, {len(names)} by {len(names)}.",
                "Each word by the kind of the name that it is part of: rows are true, columns predicted. The last column shows "
                "words of names that were not seen as such.",
                table,
                wide=len(names) > 6,
            )
        )
    return Section("errors", "Where it goes wrong", blocks)


def acquaintance(evaluation: TagEvaluation) -> Section:
    """Recall on names that training showed and on new ones."""
    rows = [[own.who, metric_cell("recall", own.seen), metric_cell("recall", own.unseen)] for own in evaluation.known]
    known = evaluation.known[0]
    columns = ["", f"In train, too\n(n = {known.seen.n:,} names)", f"New\n(n = {known.unseen.n:,} names)"]
    note = (
        "A name is in train if the same words are a name there. The model can memorise the names in the first column; "
        "the second shows whether letters and the words around tell that a word is a name, as they must on your own text."
    )
    return Section(
        "known",
        "Names seen in training, and new ones",
        [Table("Recall", columns, rows, frozenset({1, 2}), strong=frozenset({0})), Text(note, small=True)],
    )


def sentences(evaluation: TagEvaluation) -> Section:
    """Some sentences with errors, as they should be and as they came out."""
    total = evaluation.headline.n
    if not evaluation.wrong:
        return Section(
            "sentences", "Sentences with errors", [Text(f"All {total:,} test sentences are tagged rightly.")]
        )
    rows = [
        [str(own.row), marked(own.words, spans_of(own.tags)), marked(own.words, spans_of(own.predicted))]
        for own in evaluation.wrong
    ]
    intro = (
        f"{evaluation.wrong_sentences:,} of {total:,} test sentences have an error; below {len(rows)} of them, at even "
        "distances. Row is the sentence's number in the file, from 0. An error often points to a wrong tag in the data."
    )
    return Section(
        "sentences",
        "Sentences with errors",
        [
            Text(intro),
            Table("Names in brackets", ["Row", "True", "Predicted"], rows, frozenset({0}), prose=1, headed=False),
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
    """What a reader should not take from the numbers."""
    said = [
        "A GPT reads from left to right: a word's tag is decided by the word itself and by those before it, never by those "
        "that follow. In \u201cWashington said\u201d and \u201cWashington is cold\u201d the first word looks the same to "
        "it. The logistic regression sees two words on either side.",
        "The test sentences are of the same kind as the training sentences. Text of another kind has other names in "
        "other places, and fewer of them will be found.",
    ]
    if evaluation.cut_words:
        said.append(
            f"{evaluation.cut_words:,} words of the test stand beyond the model's context; they count as outside a name."
        )
    return Section("limits", "Limits", [Text(" ".join(said))])


def data(card: TagCard) -> Section:
    """Where the sentences come from, how they were divided, and what was cut."""
    pairs = [
        *provenance.origin(card),
        ("Sentences", sum(own.sentences for own in card.splits.values())),
        ("Protocol", card.protocol),
        ("Split seed", None if card.protocol == "ordered" else card.seed),
        ("Left out", "; ".join(f"{value_text(count)}: {why}" for why, count in card.dropped.items())),
        ("Tokens of a sentence", spread_text(card.tokens)),
        ("Cut at", f"{value_text(card.max_length)} tokens"),
        ("Words cut", f"{card.cut_words:,}"),
        ("Sentences cut", row_list(card.cut_rows, "rows")),
    ]
    names = {"val": "validation"}
    rows = [
        [what, *(f"{getattr(own, key):,}" for own in card.splits.values())]
        for what, key in (("sentences", "sentences"), ("words", "words"), ("tokens", "tokens"))
    ]
    rows += [[kind, *(f"{own.names.get(kind, 0):,}" for own in card.splits.values())] for kind in card.kinds]
    columns = ["", *(names.get(name, name) for name in card.splits)]
    return Section(
        "data",
        "Data",
        [
            *facts("Source and checks", pairs),
            Table("What is in each split, and names of each kind", columns, rows, frozenset(range(1, len(columns)))),
            *provenance.overlap_table(card.overlap, "sentence"),
            Text("A training sentence:"),
            Code(card.example),
            *(Text(sentence(note)) for note in card.notes),
        ],
    )


def use(name: str) -> Section:
    """How to find names with the result, in this project and elsewhere."""
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
            "from transformers import AutoModelForTokenClassification\n\n"
            f"model = AutoModelForTokenClassification.from_pretrained({run + '/export/hf'!r})"
        ),
        Text("A word's tag is that of its last token; the README beside the weights has it in full.", small=True),
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
        f"test sentences: {evaluation.headline.n:,}; names as seqeval counts them; 95 % intervals in brackets; p is that of "
        f"{metric}",
        *aligned(rows),
    ]
