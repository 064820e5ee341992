"""The report of a comparison of architectures: a table and two pictures per task and initialisation."""

from finetune.comparisons.architectures.results import ArchitecturesComparison, Entry, Group
from finetune.errors import counted
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
    seconds_text,
)
from finetune.report.metric_text import METRIC_NAMES, in_sentence, metric_interval, metric_text, metric_value, p_text
from finetune.report.page import Files, Page, make_page
from finetune.tasks.classify.data import ClassifierCard
from finetune.tasks.classify.sections.data import data_section

_LOSSES = ("bits_per_byte", "log_loss")  # lower is better
_NAMES = {"encoder": "encoder-only", "decoder": "decoder-only", "both": "encoder-decoder"}
_USES = (
    "Encoder-only: for a label, a score or an embedding of a text. Every token sees the whole text, so a prediction does "
    "not depend on the last token alone. It cannot generate text.",
    "Decoder-only: for text generation, and when one pretrained model has to serve many tasks. Every token of "
    "running text is a training target, and source and target form one sequence without new layers. It can also classify "
    "from its last token, which has seen all others.",
    "Encoder-decoder: for a source that is fully known and a target that depends on all of it: translation, "
    "rewriting, spelling out. The source is encoded once, bidirectionally, and stays fixed while the target is written. Started "
    "from a decoder's weights, it must first train its new cross-attention. On running text it learns only from the "
    "continuation, not from the prefix.",
    "Trust results on your own data more than these general rules. With models this small and so few rows, the "
    "initialisation (pretrained or random) usually matters more than the architecture. How larger models compare is not "
    "measured here.",
)


def verdict(comparison: ArchitecturesComparison) -> str:
    """The best architecture for each task, and whether it differs from the decoder by more than noise."""
    said = []
    for group in comparison.groups:
        if group.measure == "masked" or len(group.entries) < 2:
            continue
        best, name = _best(group), group.metric
        level = all(entry.metric(name).value == best.metric(name).value for entry in group.entries)
        text = (
            f"{_title(group)}: "
            + ("all are level at" if level else f"{best.label} is ahead with")
            + f" {_value(group, best)}"
        )
        reference = next(entry for entry in group.entries if entry.name == group.reference)
        apart = [entry.label for entry in group.entries if entry.difference and entry.difference.p_value < 0.05]
        said.append(f"{text}; {_other_than(apart)} from {reference.label} by more than noise.")
    return " ".join(said) or "There was only one training per task, so there is nothing to compare."


def screen_table(comparison: ArchitecturesComparison) -> list[str]:
    """The comparison for the screen: a block of lines per task and initialisation."""
    labels = [entry.label for group in comparison.groups for entry in group.entries]
    but = ", except with all blocks on each side" if any("all blocks" in label for label in labels) else ""
    lines = [
        f"means of {_seeds(comparison)}, 95 % intervals in brackets; sizes within {100 * comparison.apart:.1f} %{but}"
    ]
    for group in comparison.groups:
        name = group.metric
        rows = [
            [_title(group), _metric_name(group), "difference", "p (Holm)", "parameters", "time", "weights + optimizer"]
        ]
        for entry in group.entries:
            rows.append(
                [
                    entry.label,
                    metric_cell(name, entry.metric(name)),
                    *_difference(group, entry),
                    f"{entry.parameters:,}",
                    seconds_text(entry.seconds),
                    bytes_text(entry.state_bytes),
                ]
            )
        if group.task == "numbers":
            rows.append(["encoder-only", "does not generate", *[""] * 5])
        rows = [[cell.replace("\n", " ") for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [
            "",
            *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        ]
    return lines


def page(files: Files[ArchitecturesComparison, ClassifierCard]) -> PageContent:
    """The comparison as a report."""
    comparison = files.evaluation
    sections = [
        _attention(),
        _sizes(comparison),
        *(_group(comparison, group, number) for number, group in enumerate(comparison.groups, 1)),
        Section("use", "When to use which", [Text(text) for text in _USES]),
        _how(comparison),
        data_section(files.card),
    ]
    said = verdict(comparison).replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0")
    return make_page(files, "Comparison of architectures", said, _tiles(comparison), sections)


PAGE = Page(ArchitecturesComparison, ClassifierCard, page)


def _tiles(comparison: ArchitecturesComparison) -> list[Tile]:
    """The best of each task that starts from pretrained weights, or of all groups if none does."""
    groups = [group for group in comparison.groups if group.measure != "masked"]
    shown = [group for group in groups if group.start != "random"] or groups
    tiles = []
    for group in shown:
        best, name = _best(group), group.metric
        found = best.metric(name)
        tiles.append(
            Tile(
                f"{_title(group)}: {_metric_name(group).lower()}",
                metric_value(name, found.value),
                metric_interval(name, found),
                f"{best.label}, n = {found.n:,}",
            )
        )
    return tiles


def masks(source: int, target: int) -> dict[str, list[list[bool]]]:
    """Whether the token of a row may attend to that of a column, for a source and its target, by architecture."""
    places = range(source + target)
    return {
        "encoder-only": [[True for _ in places] for _ in places],
        "decoder-only": [[j <= i for j in places] for i in places],
        "encoder-decoder": [[j < source if i < source else j <= i for j in places] for i in places],
    }


def _attention() -> Section:
    """The difference between the three: which tokens may attend to which."""
    rows = [
        ["encoder-only", "every token", "masked tokens, from both sides"],
        ["decoder-only", "itself and earlier tokens", "the next token, at every place"],
        [
            "encoder-decoder",
            "source: the whole source; target: the source and earlier targets",
            "the target's next token",
        ],
    ]
    table = Table("What a token attends to, and what is learnt", ["", "Attends to", "Learns to predict"], rows)
    return Section(
        "attention",
        "Who attends to whom",
        [
            Figure(
                plots.masks_picture(masks(3, 3), ["s1", "s2", "s3", "t1", "t2", "t3"]),
                "Attention masks",
                "Three masks of six tokens: full, triangular, and full for the source with a triangle for the target",
                "s: source, t: target. Dark: the token of the row may attend to that of the column. The blocks are otherwise "
                "the same; the encoder-decoder reaches its source through cross-attention, which it has in addition.",
            ),
            table,
        ],
    )


def _sizes(comparison: ArchitecturesComparison) -> Section:
    layers, sizes = comparison.layers, comparison.sizes
    blocks = {
        "encoder": str(layers.others),
        "decoder": str(layers.others),
        "both": f"{layers.encoder} in the encoder, {layers.decoder} in the decoder",
    }
    table = Table(
        "Sizes without the classification head",
        ["Architecture", "Parameters", "Blocks"],
        [[_NAMES[name], f"{size:,}", blocks[name]] for name, size in sizes.items()],
        frozenset({1}),
    )
    return Section(
        "sizes",
        "Equal sizes",
        [
            table,
            Text(
                f"Largest and smallest differ by {100 * comparison.apart:.1f} %, the closest match with whole blocks: the "
                "decoder blocks of an encoder-decoder are larger (cross-attention), and each side has its own position "
                "embedding. With pretrained weights the encoder-decoder uses the lowest blocks on each side; the one labelled "
                "'all blocks on each side' (Rothe et al. 2020, arXiv:1907.12461) is about twice as large. "
                f"For masked words, {comparison.masking}."
            ),
        ],
    )


def _group(comparison: ArchitecturesComparison, group: Group, number: int) -> Section:
    name, entries = group.metric, group.entries
    columns = ["", _metric_name(group)]
    extra = next((key for key in ("f1", "f1_macro") if entries[0].metric(key)), None)
    if extra:
        columns.append(METRIC_NAMES[extra] + (f"\n({plots.cut(str(comparison.positive))})" if extra == "f1" else ""))
    columns += ["Minus\ndecoder's", "p (Holm)"]
    rows = [
        [
            entry.label,
            *(metric_cell(key, entry.metric(key)) for key in (name, extra) if key),
            *(cell or NONE for cell in _difference(group, entry)),
        ]
        for entry in entries
    ]
    if group.task == "numbers":
        rows.append(["encoder-only", "does not\ngenerate", *[NONE] * (len(columns) - 2)])
    table = Table(
        f"Test rows: n = {entries[0].metric(name).n:,}, with 95 % intervals",
        columns,
        rows,
        frozenset(range(1, len(columns))),
        strong=frozenset(i for i, entry in enumerate(entries) if entry.name == group.reference and len(entries) > 1),
    )
    costs = Table(
        "Costs",
        ["", "Parameters", "Time", "Weights and\noptimizer", "Process\npeak"],
        [
            [
                entry.label,
                f"{entry.parameters:,}",
                seconds_text(entry.seconds),
                bytes_text(entry.state_bytes),
                bytes_text(entry.peak_bytes),
            ]
            for entry in entries
        ],
        frozenset(range(1, 5)),
    )
    blocks = [*_figures(group), table, costs, Text(_explain(comparison, group), small=True)]
    if comparison.seeds[1:]:
        blocks.append(
            Table(
                "Each seed",
                ["", *map(str, comparison.seeds)],
                [[entry.label, *(metric_value(name, fit[name]) for fit in entry.by_seed)] for entry in entries],
                frozenset(range(1, 1 + len(comparison.seeds))),
            )
        )
    if entries[0].examples:
        shown = [
            [number, answer, *(plots.cut(entry.examples[i][2], 60) for entry in entries)]
            for i, (number, answer, _) in enumerate(entries[0].examples)
        ]
        columns = ["Number", "Correct", *(entry.label for entry in entries)]
        blocks.append(Table("Sample numbers and model outputs", columns, shown))
    return Section(f"group-{number}", _title(group), blocks)


def _figures(group: Group) -> list[Figure]:
    name, entries = group.metric, group.entries
    scale, axis = (
        (1.0, f"{_metric_name(group).lower()} on test (lower is better)")
        if name in _LOSSES
        else (100.0, f"test {_metric_name(group).lower()}, %")
    )
    best = _best(group)
    forest = plots.forest_picture(
        [entry.label for entry in entries],
        [entry.metric(name) for entry in entries],
        [[scale * fit[name] for fit in entry.by_seed] for entry in entries],
        axis,
        scale,
    )
    curves = plots.curves_picture({entry.label: entry.curve for entry in entries}, "Validation loss (nats)")
    last = "; ".join(f"{entry.label} {entry.curve[-1][1]:.3f}" for entry in entries)
    return [
        Figure(
            forest,
            _metric_name(group),
            f"{axis} with 95 % intervals; the best is {best.label}.",
            "The dot is the mean over seeds, the bar its interval over test rows; each mark is one seed.",
            wide=True,
        ),
        Figure(
            curves,
            "Learning curves",
            f"Validation loss over the steps; at the last step: {last}.",
            "First seed only. The best checkpoint on validation is tested.",
            wide=True,
        ),
    ]


def _explain(comparison: ArchitecturesComparison, group: Group) -> str:
    first = group.entries[0]
    read = (
        f"Each training takes {first.steps:,} optimizer steps of {comparison.batch_size} rows out of "
        f"{group.rows:,}, with the same rows in the same order"
    )
    what = {
        "classify": "The classification head reads the mean over the encoder's tokens, the decoder's last token, or "
        "the encoder-decoder's decoder state at the start token.",
        "numbers": f"Numbers below {comparison.number_limit:,}; no test number occurs in train. Answers are decoded "
        "greedily and are correct if they are identical except for white space. For both architectures "
        "the loss covers the words and the end token.",
        "text": f"Given {comparison.piece_tokens} tokens of a held-out document, a model predicts as many that follow; "
        "these are the same for both architectures. In training a decoder learns from all tokens, an "
        "encoder-decoder only from the predicted ones.",
    }[group.task]
    if group.measure == "masked":
        what = (
            "Nats per masked token (15 % of all tokens), predicted from both sides. It is "
            "a different quantity from the next-token loss and cannot be compared with it."
        )
    tested = (
        " Differences are tested on the same rows by a paired bootstrap with Holm's correction for the number of entries in "
        "this table. They say nothing about other seeds."
        if len(group.entries) > 1
        else ""
    )
    rates = ", ".join(sorted({f"{entry.lr:g}" for entry in group.entries}))
    majority = (
        ""
        if group.majority is None
        else f" Always predicting the most frequent label has an accuracy of {metric_value('accuracy', group.majority)}."
    )
    return f"{what}{majority} {read}; learning rate {rates}.{tested}"


def _how(comparison: ArchitecturesComparison) -> Section:
    seeds = ", ".join(map(str, comparison.seeds))
    return Section(
        "how",
        "How it was measured",
        [
            Text(
                f"Means of {_seeds(comparison)} ({seeds}); the split is the same. All architectures read the same number of "
                "tokens, which does not mean the same time: in an encoder-decoder a token passes through only one of the two "
                "sides. Learning rate and schedule depend only on the initialisation and were not tuned per architecture."
            ),
            Text(
                "Time: training, validations and checkpoints; all trainings run one after another in one process; "
                f"{comparison.device}, threads: {comparison.threads}, {comparison.precision}. Weights and optimizer: "
                "for each parameter the weight, gradient and two moments in fp32 (16 bytes); this part of the memory grows with "
                "the model. The process peak also includes libraries, activations and memory kept from earlier "
                "trainings, so it is similar for all small models."
            ),
            Text(
                "Masked words: 15 % of the tokens are predicted; of these, 80 % are replaced by the mask, 10 % by a random "
                "token, and 10 % stay, with a new draw in each epoch (Devlin et al. 2019, arXiv:1810.04805). An encoder labelled "
                "'after masked-word training' was first trained on the bundled text, so it had more training than the others."
            ),
        ],
    )


def _title(group: Group) -> str:
    task = {"classify": "Classification", "numbers": "Numbers in words", "text": "Next token of held-out text"}
    name = "Masked words of held-out text" if group.measure == "masked" else task[group.task]
    return f"{name}, {'random start' if group.start == 'random' else 'from ' + plots.cut(group.start)}"


def _metric_name(group: Group) -> str:
    return "Nats per masked token" if group.measure == "masked" else METRIC_NAMES[group.metric]


def _best(group: Group) -> Entry:
    sign = -1 if group.metric in _LOSSES else 1
    return max(group.entries, key=lambda entry: sign * entry.metric(group.metric).known_value())


def _value(group: Group, entry: Entry) -> str:
    return f"{in_sentence(_metric_name(group))} {metric_text(entry.metric(group.metric), group.metric)}"


def _other_than(labels: list[str]) -> str:
    return f"{' and '.join(labels)} {'differ' if len(labels) > 1 else 'differs'}" if labels else "nothing differs"


def _difference(group: Group, entry: Entry) -> tuple[str, str]:
    """The difference with its interval, and its p value; for the reference "" and "reference"."""
    if not entry.difference:
        return "", "reference" if len(group.entries) > 1 else ""
    found = entry.difference.metric(group.metric)
    scale, digits = (1, 3) if group.metric in _LOSSES else (100, 1)
    value, low, high = (f"{scale * end:+.{digits}f}" for end in found.known())
    return f"{value}\n({low} to {high})", p_text(entry.difference.p_value)


def _seeds(comparison: ArchitecturesComparison) -> str:
    count = len(comparison.seeds)
    return counted(count, "seed")
