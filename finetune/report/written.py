"""Sections shared by the pages of text-generating tasks: baselines, losses, samples, limits."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

from finetune.console import aligned
from finetune.evaluation.results import Difference, Metric
from finetune.evaluation.written import LossChange, WrittenBaseline, WrittenEvaluation
from finetune.records import SMALL_MODEL, TrainResult
from finetune.report.blocks import (
    NONE,
    Code,
    Section,
    Table,
    Text,
    Tile,
    facts,
    metric_cell,
    metric_name,
    percent,
    sentence,
    value_text,
)
from finetune.report.metric_text import bracket_cell, metric_interval, metric_text, metric_value, p_text, points
from finetune.report.provenance import origin, overlap_table
from finetune.tables.card import ExamplesCard, SplitSize, TokenSpread

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LISTED = 20  # rows or problems that are listed individually
SPLITS = {"train": "training", "val": "validation", "test": "test"}
FEW = 200  # test rows below which the headline's interval is wide
_SHOWN = 600  # characters of a text among the samples
_LOWER = {"log_loss", "perplexity", "repetition"}

Fact = tuple[str, object]  # a name and a value, for a table of two columns


@dataclass(frozen=True)
class Words:
    """A task's words for its rows and baselines."""

    row: str  # record, pair
    asked: str  # question, source
    wanted: str  # answer, target
    baselines: dict[str, tuple[str, str]]  # a baseline's name -> its name in a sentence and as a column heading
    untuned: str  # the baseline that is the model before training


def verdict_text(
    evaluation: WrittenEvaluation,
    shown: dict[str, str],
    words: Words,
    passed_over: Callable[[WrittenBaseline, str], bool] = lambda baseline, metric: False,
) -> str:
    """The verdict: a few sentences that claim no more than the numbers support.

    shown: metric -> a phrase on the rows it is measured on, or "". passed_over: whether to leave a baseline out of the
    sentence on a metric.
    """
    said = []
    for name, where in shown.items():
        others = [
            _against(baseline, name, words.baselines[baseline.name][0])
            for baseline in evaluation.baselines
            if not passed_over(baseline, name)
        ]
        said.append(f"{metric_label(name)} {metric_text(evaluation.metrics[name], name)}{where}; {'; '.join(others)}.")
    loss = next(change for change in evaluation.losses if change.split == "test")
    said.append(
        f"Loss on the {words.wanted}s: {loss.before.value:.3f} nats per token before training, "
        f"{loss.after.value:.3f} after."
    )
    return " ".join(said + _without_overlap(evaluation, words))


def is_ahead(baseline: WrittenBaseline, metric: str) -> bool:
    """Whether the model is significantly better than a baseline, for metrics where higher is better."""
    difference = baseline.differences[metric]
    return difference.known_value() > 0 and difference.p() < 0.05


def _against(baseline: WrittenBaseline, metric: str, name: str) -> str:
    """A baseline's figure, and whether the model is better, worse or neither."""
    difference, value = baseline.differences[metric], metric_value(metric, baseline.metrics[metric].value)
    size, p = points(metric, difference.known_value()), p_text(difference.p())
    assert size is not None, f"{metric} is not in points"
    if size == 0 or difference.p() >= 0.05:
        return f"{name} {value} (not significantly different, {p})"
    return f"{name} {value} (the model is {'better' if size > 0 else 'worse'} by {abs(size):.1f} points, {p})"


def _without_overlap(evaluation: WrittenEvaluation, words: Words) -> list[str]:
    """A sentence on test rows that also occur in another split; an empty list if there are none."""
    headline, clean = evaluation.headline.metric, evaluation.clean
    overlapping = max(metric.n for metric in evaluation.metrics.values()) - clean.n
    if not overlapping:
        return []
    alone = clean.metrics.get(headline)
    return [
        f"{overlapping:,} test {words.asked}s also occur in the training or validation set"
        + (f"; without them: {metric_text(alone, headline)}." if alone else ".")
    ]


def unbroken(text: str) -> str:
    """The text with no-break spaces inside numbers, so that no line breaks there."""
    return text.replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0")


def tiles(evaluation: WrittenEvaluation, names: list[str], words: Words) -> list[Tile]:
    """The main results at the top of the page; each defined metric once."""
    metrics = evaluation.metrics
    before = next((own.metrics for own in evaluation.baselines if own.name == words.untuned), {})
    return [
        Tile(
            metric_label(name),
            metric_value(name, metrics[name].value),
            metric_interval(name, metrics[name]),
            f"test, n = {metrics[name].n:,}"
            + (f"; before {metric_value(name, before[name].value)}" if name in before else ""),
        )
        for name in dict.fromkeys(names)
        if name in metrics and metrics[name].value is not None
    ]


def comparison_tables(evaluation: WrittenEvaluation, compared: Sequence[str], words: Words) -> list:
    """All metrics of the model and its baselines on the same rows, and the paired tests."""
    metrics, baselines = evaluation.metrics, evaluation.baselines
    rows = [
        [
            _labelled(name),
            _cell(name, metric),
            *(_cell(name, other.metrics[name]) if name in other.metrics else NONE for other in baselines),
        ]
        for name, metric in metrics.items()
    ]
    heads = ["This model", *(words.baselines[own.name][1] for own in baselines)]
    tested = [
        [_labelled(name), *(_difference(name, own.differences.get(name)) for own in baselines)]
        for name in compared
        if any(name in own.differences for own in baselines)
    ]
    minus = [f"Model \N{MINUS SIGN}\n{head.lower()}" for head in heads[1:]]
    return [
        Table(
            f"Test {words.row}s, with 95 % confidence intervals",
            ["Metric", *heads],
            rows,
            frozenset(range(1, 1 + len(heads))),
        ),
        Table(
            f"Paired differences on the same test {words.row}s",
            ["Metric", *minus],
            tested,
            frozenset(range(1, 1 + len(minus))),
        ),
        Text(
            "Differences are in percentage points, or in nats for the loss, with 95 % confidence intervals and p-values from a "
            "paired bootstrap; the number of resamples bounds p from below. With p below 0.05 a difference is unlikely to be "
            "due to chance.",
            small=True,
        ),
    ]


def losses(changes: list[LossChange], tokens: dict[str, str], note: str) -> Section:
    """The losses before and after training. tokens: ``LossChange.on`` -> a name for the tokens that the loss is over."""
    cells = [
        [
            f"{SPLITS[own.split].capitalize()}, {tokens[own.on]}",
            _loss_cell(own.before),
            f"{_loss_cell(own.after)}\n{percent(own.after.known_value(), own.before.known_value())} of the loss before",
        ]
        for own in changes
    ]
    table = Table(
        "Nats per token, with 95 % confidence intervals",
        ["", "Before training", "After training"],
        cells,
        frozenset({1, 2}),
    )
    return Section("losses", "Loss before and after", [table, Text(note, small=True)])


def samples(rows: Sequence["DataclassInstance"], words: Words, note: str) -> Section:
    """Some test rows, one below the other to fit a narrow screen.

    rows: dataclasses with the fields row number, question, reference, output after training, output before training
    and the nearest training answer.
    """
    blocks: list = [Text(note)]
    for number, (_, asked, wanted, after, before, nearest) in enumerate(map(astuple, rows), start=1):
        blocks += facts(
            f"Sample {number}",
            [
                (name, excerpt(text))
                for name, text in (
                    (words.asked.capitalize(), asked),
                    ("Reference", wanted),
                    ("Before training", before),
                    ("After training", after),
                    ("Nearest neighbour", nearest),
                )
            ],
        )
    blocks = [block if isinstance(block, Text) else replace(block, quotes=frozenset({0, 1})) for block in blocks]
    return Section("samples", "Samples before and after", blocks, training=True)


def limits(
    evaluation: WrittenEvaluation,
    train: TrainResult | None,
    seed: int | None,
    words: Words,
    learnt: str,
    small: str,
    truth: str,
) -> Section:
    """What the metrics do not measure, and what a model of this size cannot do.

    learnt: a sentence on what was learned. small: the end of a sentence that begins with a small model's size. truth: a
    sentence on what no metric measures.
    """
    blocks, n = [Text(learnt)], evaluation.headline.n
    if train and train.parameters < SMALL_MODEL:
        blocks.append(Text(f"A model of {train.parameters / 1e6:.1f} million parameters {small}"))
    blocks += [
        Text(truth),
        Text(
            f"All results come from one training run{'' if seed is None else f' (seed {seed})'}. The intervals cover the "
            f"sampling of the test {words.row}s, not the variation between seeds or splits."
        ),
    ]
    if n < FEW:
        blocks.append(Text(f"With only {n:,} test {words.row}s, the confidence interval of the main metric is wide."))
    return Section("limits", "Limitations", blocks)


def data_card(
    card: ExamplesCard,
    counts: Sequence[Fact],
    lengths: Sequence[Fact],
    example: str,
    words: Words,
    more: Sequence[Table] = (),
) -> Section:
    """The source of the rows, their splits, and what was truncated or left out.

    counts, lengths, more: facts and tables of the task. example: a sentence that introduces the card's example.
    """
    pairs = [
        *origin(card),
        *counts,
        ("Split", card.protocol),
        ("Split seed", None if card.protocol == "ordered" else card.seed),
        *lengths,
    ]
    return Section(
        "data",
        "Data",
        [
            *facts("Source", pairs),
            _split_table(card.splits),
            *overlap_table(card.overlap, words.asked),
            Text(example, quotes=True),
            Code(excerpt(card.example), quotes=True),
            *more,
            *(Text(sentence(note)) for note in card.notes),
        ],
        training=True,
    )


def no_data_card() -> Section:
    """A note for runs without a data card."""
    return Section("data", "Data", [Text("The run has no data card.")])


def _split_table(splits: dict[str, SplitSize]) -> Table:
    return Table(
        "Size of each split",
        ["", "Rows", "Rows used", "Tokens", "Tokens that count in the loss"],
        [[SPLITS[name], *map(value_text, astuple(size))] for name, size in splits.items()],
        frozenset(range(1, 5)),
    )


def spread_text(tokens: TokenSpread) -> str:
    """The lengths of texts, as a phrase."""
    return f"median {tokens.median}, 95th percentile {tokens.p95}, maximum {tokens.max}"


def row_list(rows: list[int], what: str, count: int | None = None) -> str:
    """The number of rows and which they are. count: their number, if `rows` lists only some of them."""
    count = len(rows) if count is None else count
    if not rows:
        return f"{count:,}"
    listed = ", ".join(map(str, rows[:LISTED]))
    return f"{count:,} ({what} {listed}{' and more' if count > LISTED else ''}; counted from 0)"


def excerpt(text: str) -> str:
    """A shortened text with its line breaks."""
    text = text or "(empty)"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "\N{HORIZONTAL ELLIPSIS}"


def metric_label(name: str) -> str:
    """A metric's name on these pages."""
    return "Loss (nats per token)" if name == "log_loss" else metric_name(name)


def _labelled(name: str) -> str:
    """A metric's name, with an arrow where lower is better."""
    return metric_label(name) + ("\u00a0\N{DOWNWARDS ARROW}" if name in _LOWER else "")


def _cell(name: str, metric: Metric) -> str:
    """The value with its interval below; a perplexity of 100 or more without decimals."""
    if name != "perplexity":
        return metric_cell(name, metric)
    value, low, high = (f"{part:,.{0 if part >= 100 else 1}f}" for part in metric.known())
    return f"{value}\n({low} to {high})"


def _difference(name: str, difference: Difference | None) -> str:
    """The difference with its interval and p; in points, except for the loss."""
    if difference is None:
        return NONE
    value, low, high = (
        f"{part:+.3f}" if points(name, part) is None else f"{points(name, part):+.1f}" for part in difference.known()
    )
    return f"{value}\n({low} to {high})\n{p_text(difference.p())}"


def _loss_cell(loss: Metric) -> str:
    return f"{loss.value:.3f}\n({loss.low:.3f} to {loss.high:.3f})"


def beside_baselines(evaluation: WrittenEvaluation, names: dict[str, str]) -> list[str]:
    """The model and its baselines, one line each. names: metric -> column heading."""
    own = (f"{evaluation.weights.name}, {evaluation.method}", evaluation.metrics, "")
    rows = [["", *names.values(), "p"]]
    for name, metrics, p in (
        own,
        *((other.name, other.metrics, f"{other.p_value:.3g}") for other in evaluation.baselines),
    ):
        rows.append([name, *(bracket_cell(metrics[metric]) if metric in metrics else "" for metric in names), p])
    return aligned(rows)
