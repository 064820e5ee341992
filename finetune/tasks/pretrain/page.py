"""A language model's page."""

import shlex
from dataclasses import replace

from finetune.console import aligned
from finetune.evaluation.results import Metric
from finetune.report.blocks import NONE, Code, PageContent, Section, Table, Text, Tile, facts, value_text
from finetune.report.metric_text import bracket_cell, metric_value
from finetune.report.page import Files, Page, fallback_notice, look_closer, make_page
from finetune.report.provenance import origin, training
from finetune.tasks.pretrain.results import LanguageEvaluation, TextCard

NAMES = {"bits_per_byte": "Bits per byte", "perplexity": "Perplexity", "log_loss": "Loss (nats per token)"}
MASKED_NAMES = {
    "log_loss": "Loss (nats per masked token)",
    "perplexity": "Perplexity",
    "token_accuracy": "Masked tokens predicted correctly",
}
NOTE = (
    "Lower is better. Bits per byte can be compared between any two models; perplexity and loss are per token, so they can "
    "only be compared between models with the same tokenizer. The held-out text also chose the checkpoint, so the figures "
    "after training are slightly optimistic."
)
MASKED_NOTE = (
    "15 % of the tokens are masked, always the same ones, and predicted from both sides. The loss is per masked token, so "
    "it is only comparable for the same vocabulary, and not with the loss of a model that predicts the next token."
)
FEW_BLOCKS = 20  # with fewer, a bootstrap over blocks is unreliable
PARTS = {"train": "Training text", "val": "Held-out text", "eval": "Evaluation file"}


def page(files: Files[LanguageEvaluation, TextCard]) -> PageContent:
    """A language model's report, in order."""
    evaluation = files.evaluation
    sections = [
        before_and_after(evaluation),
        *sources(evaluation),
        samples(evaluation),
        training(files.log, files.train),
        data_section(files.card),
    ]
    return make_page(
        files,
        "Pretraining report",
        verdict(evaluation),
        tiles(evaluation),
        sections,
        use=[use(files.name, is_masked(evaluation)), *([] if is_masked(evaluation) else [look_closer(files)])],
        notice=fallback_notice(files),
    )


PAGE = Page(LanguageEvaluation, TextCard, page)


def verdict(evaluation: LanguageEvaluation) -> str:
    """The verdict on the numbers, in one to three sentences."""
    if is_masked(evaluation):
        return masked_verdict(evaluation)
    headline, before = evaluation.headline, evaluation.before["val"]["bits_per_byte"].value
    said = (
        f"{headline.value:.3f} bits per byte on held-out text ({headline.low:.3f} to {headline.high:.3f}; "
        f"{headline.n:,} blocks), {before:.3f} before training."
    )
    best = min((entry.bits_per_byte for entry in evaluation.compressors), default=None)
    if best is not None:
        ratio = headline.known_value() / best
        said += (
            f" The best of the general-purpose compressors, which start without any knowledge, needs {best:.3f}; the model needs "
            f"{100 * ratio:.0f}\u00a0% of that."
            if ratio < 1
            else f" A general-purpose compressor needs only {best:.3f}, so the model has learned little so far."
        )
    if headline.n < FEW_BLOCKS:
        said += f" With only {headline.n:,} blocks of held-out text, the interval is unreliable."
    return said


def is_masked(evaluation: LanguageEvaluation) -> bool:
    """Whether the model is an encoder that predicted masked tokens."""
    return evaluation.objective == "masked"


def names(evaluation: LanguageEvaluation) -> dict[str, str]:
    """The names of the metrics."""
    return MASKED_NAMES if is_masked(evaluation) else NAMES


def masked_verdict(evaluation: LanguageEvaluation) -> str:
    """The results of an encoder, in two sentences."""
    headline, before = evaluation.headline, evaluation.before["val"]
    right = metric_value("token_accuracy", evaluation.metrics["token_accuracy"].value)
    return (
        f"{headline.value:.3f} nats per masked token of held-out text ({headline.low:.3f} to {headline.high:.3f}; "
        f"{headline.n:,} blocks), {before['log_loss'].value:.3f} before training. The encoder predicts {right} of the "
        f"masked tokens, {metric_value('token_accuracy', before['token_accuracy'].value)} before training."
    )


def tiles(evaluation: LanguageEvaluation) -> list[Tile]:
    """The main results at the top of the page."""
    metrics = evaluation.metrics
    return [
        Tile(
            name,
            _number(key, metrics[key].known_value()),
            _interval(key, metrics[key]),
            f"held-out text, {metrics[key].n:,} blocks",
        )
        for key, name in names(evaluation).items()
    ]


def before_and_after(evaluation: LanguageEvaluation) -> Section:
    """The results on each text before and after training."""
    rows = []
    for part, metrics in evaluation.after.items():
        for key, name in names(evaluation).items():
            rows.append(
                [
                    f"{PARTS[part]}: {name[0].lower()}{name[1:]}",
                    _cell(key, evaluation.before[part][key]),
                    _cell(key, metrics[key]),
                ]
            )
    table = Table(
        "With 95 % confidence intervals (bootstrap over blocks, one context long)",
        ["", "Before training", "After training"],
        rows,
        frozenset({1, 2}),
    )
    return Section(
        "results", "Before and after", [table, Text(MASKED_NOTE if is_masked(evaluation) else NOTE, small=True)]
    )


def sources(evaluation: LanguageEvaluation) -> list[Section]:
    """The results on each source's held-out text, and those of compressors."""
    if not evaluation.sources:
        return []
    names = [entry.name for entry in evaluation.sources[0].compressors]
    rows = [
        [
            entry.name,
            f"{entry.bytes:,}",
            f"{entry.before:.3f}",
            f"{entry.after:.3f}",
            *(f"{packed.bits_per_byte:.3f}" for packed in entry.compressors),
        ]
        for entry in evaluation.sources
    ]
    table = Table(
        "Bits per byte of each source's held-out text",
        ["Source", "Bytes", "Before", "After", *names],
        rows,
        frozenset(range(1, 4 + len(names))),
    )
    return [
        Section(
            "sources",
            "Sources",
            [
                table,
                Text(
                    "The compressors start without any prior knowledge, so they compress a few kilobytes poorly. The model "
                    "was pretrained.",
                    small=True,
                ),
            ],
        )
    ]


def samples(evaluation: LanguageEvaluation) -> Section:
    """Continuations before and after training, one below the other to fit a narrow screen."""
    if not evaluation.samples:
        return Section("samples", "Samples", [Text("No held-out text is long enough for a sample.")])
    how = evaluation.sampling
    blocks: list[Text | Table] = [
        Text(
            "Held-out texts with masked tokens, and in brackets what the encoder predicts for them before and after training."
        )
        if is_masked(evaluation)
        else Text(
            f"The beginnings of held-out texts, continued before and after training (temperature {how.temperature:g}, "
            f"top-k {how.top_k}, seed {how.seed})."
        )
    ]
    for number, entry in enumerate(evaluation.samples, start=1):
        pairs = [("Prompt", entry.prompt), ("Before training", entry.before), ("After training", entry.after)]
        blocks += [replace(table, quotes=frozenset({0, 1})) for table in facts(f"Sample {number}", pairs)]
    return Section("samples", "Samples", blocks)


def data_section(card: TextCard | None) -> Section:
    """The sources of the text, with the sizes of their training and held-out parts."""
    if card is None:
        return Section("data", "Data", [Text("The run has no data card.")])
    sizes = [(part, value_text(card.documents[part]), card.tokens[part], card.bytes[part]) for part in ("train", "val")]
    if card.eval:
        sizes.append(("eval", NONE, card.eval.tokens, card.eval.bytes))
    blocks: list[Text | Table] = [
        *facts("Source", origin(card)),
        Table(
            "Size of each split",
            ["", "Documents", "Tokens", "Bytes", "Bytes per token"],
            [
                [PARTS[part], documents, value_text(tokens), value_text(size), f"{size / max(tokens, 1):.2f}"]
                for part, documents, tokens, size in sizes
            ],
            frozenset(range(1, 5)),
        ),
    ]
    if card.sources:
        blocks.append(
            Table(
                "Size of each source",
                [
                    "Source",
                    "Weight",
                    "Training\ndocuments",
                    "Training\ntokens",
                    "Held-out\ndocuments",
                    "Held-out\ntokens",
                ],
                [
                    [
                        name,
                        f"{found.share:g}",
                        *(
                            value_text(count)
                            for part in (found.train, found.val)
                            for count in (part.documents, part.tokens)
                        ),
                    ]
                    for name, found in card.sources.items()
                ],
                frozenset(range(1, 6)),
            )
        )
        blocks.append(
            Text(
                "Weight: how many times each document of a source is trained on in an epoch. Each split has one token "
                "more than its sources together: the end-of-text token that closes its last document.",
                small=True,
            )
        )
    return Section("data", "Data", blocks)


def use(name: str, masked: bool) -> Section:
    """How to use the weights."""
    run = shlex.quote(f"runs/{name}")
    commands = [
        f"finetune classify my.csv --weights {run}",
        f"finetune run instruct --set data=my.jsonl --set weights={run}",
    ]
    commands = commands[:1] if masked else [f'finetune generate {run} "The beginning of a text"', *commands]
    return Section("use", "How to use it", [Text("On the command line:"), Code("\n".join(commands))])


def _cell(key: str, metric: Metric) -> str:
    return f"{_number(key, metric.known_value())}\n({_interval(key, metric)})"


def _interval(key: str, metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return NONE
    return f"{_number(key, metric.low)} to {_number(key, metric.high)}"


def _number(key: str, value: float) -> str:
    if key == "token_accuracy":
        return metric_value(key, value)
    return f"{value:,.1f}" if key == "perplexity" else f"{value:,.3f}"


def language_table(evaluation: LanguageEvaluation) -> list[str]:
    """A language model before and after."""
    key = evaluation.headline.metric
    rows = [["nats per masked token" if is_masked(evaluation) else "bits per byte", "before", "after"]]
    for part in evaluation.after:
        name = "held-out text" if part == "val" else "evaluation text"
        rows.append([name, *(bracket_cell(state[part][key]) for state in (evaluation.before, evaluation.after))])
    rows += [[entry.name, "", f"{entry.bits_per_byte:.4f}"] for entry in evaluation.compressors]
    return aligned(rows)
