"""The report's section on a classifier's data: source, splits and findings of the checks."""

from finetune.errors import counted
from finetune.report import provenance
from finetune.report.blocks import Section, Table, Text, facts, percent, sentence, value_text
from finetune.tables.codes import GUIDE
from finetune.tables.findings import located
from finetune.tasks.classify.data import ClassifierCard
from finetune.tasks.classify.long_texts import not_read, told_of
from finetune.training.pieces import CUT

_LISTED_LABELS = 20  # labels in the table of the splits


def data_section(card: ClassifierCard | None, divided: bool = True) -> Section:
    """The source of the rows, their splits (if they are divided) and the findings of the checks."""
    if card is None:
        return Section("data", "Data", [Text("The run has no data card.")])
    tokens = card.tokens
    truncated = f"{counted(tokens.cut_rows, 'row was', 'rows were')} truncated"
    pairs = [
        *provenance.origin(card),
        ("Rows", f"{card.rows:,}"),
        ("Split", card.protocol),
        ("Split seed", card.seed),
        ("Exact duplicates", f"{card.exact_duplicates:,}"),
        ("Distinct texts after normalising", f"{card.groups:,}"),
        ("Left out", "; ".join(f"{counted(count, 'row')}: {why}" for why, count in card.dropped.items())),
        (
            "Tokens per text",
            f"median {value_text(tokens.median)}, 95th percentile {value_text(tokens.p95)}, "
            f"maximum {value_text(tokens.max)}",
        ),
        ("Maximum length", f"{tokens.max_length} tokens; {truncated if tokens.long_texts == CUT else told_of(tokens)}"),
        ("Tokens beyond the maximum length", not_read(tokens)),
    ]
    return Section(
        "data",
        "Data",
        [
            *facts("Source", pairs),
            *(_split_table(card) if divided else []),
            *_findings(card),
            *(Text(sentence(note)) for note in card.notes),
        ],
    )


def _split_table(card: ClassifierCard) -> list:
    """The rows of each label in each split; if there are many labels, of the most frequent."""
    splits, labels = card.splits, list(card.labels)
    used = {label: sum(split.labels.get(label, 0) for split in splits.values()) for label in labels}
    frequent = set(sorted(labels, key=lambda label: -used[label])[:_LISTED_LABELS])
    shown = [label for label in labels if label in frequent]
    rows = [
        [
            label,
            *(
                f"{split.labels.get(label, 0):,} ({percent(split.labels.get(label, 0), split.rows)})"
                for split in splits.values()
            ),
        ]
        for label in shown
    ]
    rows.append(["all", *(f"{split.rows:,}" for split in splits.values())])
    names = {"val": "validation"}
    table = Table(
        "Rows of each label in each split",
        ["Label", *(names.get(name, name) for name in splits)],
        rows,
        frozenset(range(1, len(splits) + 1)),
        strong=frozenset({len(rows) - 1}),
    )
    if len(shown) == len(labels):
        return [table]
    return [table, Text(f"The {len(shown)} most frequent of {len(labels)} labels are listed.", small=True)]


def _findings(card: ClassifierCard) -> list[Table | Text]:
    """The findings of the checks by code, and the muted codes."""
    rows = [[finding.code, finding.level, sentence(located(finding)), finding.do] for finding in card.checks]
    blocks: list[Table | Text] = []
    if rows:
        blocks.append(
            Table(
                "Findings of the data checks",
                ["Code", "Severity", "Finding", "What to do"],
                rows,
                prose=frozenset({2, 3}),
            )
        )
    if card.muted:
        blocks.append(Text(f"Muted codes, whose findings are not listed: {', '.join(card.muted)}."))
    if blocks:
        blocks.append(Text(f"{GUIDE}, a file of the project that made this report, explains each code.", small=True))
    return blocks
