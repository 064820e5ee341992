"""Checks of a table beyond texts and labels: file format, and columns that leak the label."""

from collections import Counter
from pathlib import Path

from finetune.errors import counted, listed
from finetune.tables.detect import Detected
from finetune.tables.findings import Finding
from finetune.tables.label_folders import SIDES
from finetune.tables.readers import LabelledTexts
from finetune.tables.tables import SPLIT_COLUMN, TableFormat, iterate_table, with_fields

MOST_VALUES = 10_000  # maximum distinct values of a checked column; with more, each is too rare to predict a label
ADDED = ("predicted", "probability")  # columns that `predict` adds to a table


def check_table(path: Path, detected: Detected, source: LabelledTexts, sides_known: bool = False) -> list[Finding]:
    """Run every check of the file itself: its layout and its columns. `source` includes its rows.

    sides_known: whether the split of its rows is given, by a column or because the file is one split.
    """
    found = check_columns(path, detected.layout, source)
    return check_layout(detected) + [own for own in found if own.check != "unused_split" or not sides_known]


def check_layout(detected: Detected) -> list[Finding]:
    """Anything unusual in the file format."""
    found = [
        Finding("layout", "note", note)
        for note in detected.notes
        if not (detected.lost_by_quoting and "quoting" in note)
    ]
    if detected.lost_by_quoting:
        found.append(
            Finding(
                "quoting",
                "note",
                "a reader with default quoting (pandas, datasets) loses "
                f"{counted(detected.lost_by_quoting, 'row')} of this file to unbalanced quotes",
                "Nothing to do here: quotes are read as plain characters. In other programs, switch quoting off.",
                detected.lost_by_quoting,
            )
        )
    if detected.swallowed_lines:
        lines = detected.swallowed_lines
        some, them, hold = (
            ("1 row looks", "it", "holds") if len(lines) == 1 else (f"{len(lines)} rows look", "they", "hold")
        )
        inside = detected.swallowed_rows
        lost = f"; {them} {hold} {counted(inside, 'further line')}, each a lost row" if inside else ""
        found.append(
            Finding(
                "swallowed_rows",
                "warning",
                f"{some} like several rows joined by an unclosed quote, "
                f"from line {listed(list(map(str, lines)), 3)}{lost}",
                "Look at these lines and close the quote.",
                inside,
                examples=[f"line {line}" for line in lines[:5]],
            )
        )
    return found


def check_columns(path: Path, layout: TableFormat, source: LabelledTexts) -> list[Finding]:
    """Other columns: those that predict the label or name a split, and names reserved for predictions."""
    layout = with_fields(path, layout, [source.text_column, source.label_column])
    names, values, totals = _tally(path, layout, source.label_column)
    found = []
    read = {source.text_column, *source.text_column.split(",")}
    total = sum(totals.values())
    most = max(totals.values()) / total
    for name, counts in values.items():
        sides = {value.strip().casefold() for value, _ in counts}
        if name.strip().casefold() == SPLIT_COLUMN and sides <= SIDES.keys() and path.is_file():
            found.append(
                Finding(
                    "unused_split",
                    "warning",
                    f"column {name!r} gives the split of each row "
                    f"({listed(sorted({SIDES[side] for side in sides}))}) but is not used",
                    f"To use that split, add --split {name}",
                    sum(counts.values()),
                )
            )
        different = len({value for value, _ in counts})
        if not 2 <= different <= total / 3:
            continue
        best: dict[str, int] = {}
        for (value, _), count in counts.items():
            best[value] = max(best.get(value, 0), count)
        right = sum(best.values()) / sum(counts.values())
        if total >= 20 and right >= 0.99 > most:
            found.append(
                Finding(
                    "leaking_column",
                    "warning" if name in read else "note",
                    f"column {name!r} predicts the label in {right:.1%} of the rows",
                    "Do not use it as text: it may be the label in other words.",
                    different,
                )
            )
    clash = [name for name in names if name in ADDED or name.startswith("p_")]
    if clash:
        found.append(
            Finding(
                "reserved_columns",
                "note",
                f"`finetune predict` adds columns with the same names as these: {listed(clash)}",
                "Training ignores them; rename them, or replace them with `finetune predict ... --overwrite`.",
                len(clash),
            )
        )
    return found


def _tally(path: Path, layout: TableFormat, label: str) -> tuple[list[str], dict[str, Counter], Counter]:
    """(names, counts of each column value with each label, counts of each label).

    label: the label column, or several with commas between them, whose cells together are the label.
    """
    names: list[str] = []
    values: dict[str, Counter] = {}
    seen: dict[str, set] = {}
    totals: Counter = Counter()
    for row, (names, cells) in enumerate(iterate_table(path, layout)):
        if not row:
            at = [names.index(part.strip()) for part in ([label] if label in names else label.split(","))]
            alone = [(i, name) for i, name in enumerate(names) if i not in at and names.count(name) == 1]
            values, seen = {name: Counter() for _, name in alone}, {name: set() for _, name in alone}
        own = ",".join(cells[i].strip() for i in at)
        if not own:
            continue
        totals[own] += 1
        for i, name in alone:
            if name in values:
                values[name][cells[i], own] += 1
                seen[name].add(cells[i])
                if len(seen[name]) > MOST_VALUES or len(values[name]) > 4 * MOST_VALUES:
                    del values[name], seen[name]
    return names, values, totals
