"""Corrections of labels: a small table of row numbers, each with the right label or a mark to drop the row."""

from dataclasses import dataclass
from pathlib import Path

from finetune.errors import DataError, counted, listed
from finetune.tables.cells import unescape_formula
from finetune.tables.detect import detect_format
from finetune.tables.readers import LabelledTexts
from finetune.tables.splits import SPLITS
from finetune.tables.tables import iterate_table

COLUMNS = ("row", "label", "drop", "split")
NO = ("", "0", "no", "false")


@dataclass(frozen=True)
class Fix:
    """A row's correction. split: the row's split, or empty if its number suffices; label: None to drop the row."""

    row: int
    split: str
    label: str | None


@dataclass(frozen=True)
class Fixed:
    """Numbers of rows by the effect of the fixes."""

    relabelled: int
    dropped: int
    as_before: int  # rows that already had this label
    test: list[int]  # test rows left unchanged

    def __str__(self) -> str:
        said = f"{counted(self.relabelled, 'row')} relabelled, {counted(self.dropped, 'row')} dropped"
        if self.test:
            shown = listed([str(row) for row in self.test])
            said += f"; not applied to {counted(len(self.test), 'test row')} ({shown}), as test rows are never changed"
        return said


def read_fixes(path: Path, encoding: str | None = None) -> list[Fix]:
    """The corrections in a table with the columns row and label or drop, and optionally split; others are ignored.

    A row with neither a label nor a mark in the column drop is ignored. Raises DataError.
    """
    do = "Give a table with the columns row, label and drop, such as an edited label_suspects.csv."
    if not path.is_file():
        raise DataError(f"{path}: no such file", do=do)
    found: dict[tuple[int, str], Fix] = {}
    for names, cells in iterate_table(path, detect_format(path, encoding, frozenset(COLUMNS)).layout):
        at = {name.strip().casefold(): number for number, name in enumerate(names)}
        if "row" not in at or not {"label", "drop"} & set(at):
            raise DataError(f"{path}: not a table of fixes", got=listed(names), known="row, label, drop, split", do=do)
        own = {name: cells[at[name]].strip() if name in at else "" for name in COLUMNS}
        label, drop = unescape_formula(own["label"]), own["drop"].casefold() not in NO
        if not label and not drop:
            continue
        number = own["row"].removesuffix(".0")  # as spreadsheets may write a row number
        if not number.isdecimal() or own["split"] not in ("", *SPLITS):
            raise DataError(f"{path}: not a row of the data", got=f"row {own['row']!r}, split {own['split']!r}", do=do)
        fix = Fix(int(number), own["split"], None if drop else label)
        if found.setdefault((fix.row, fix.split), fix) != fix:
            raise DataError(f"{path}: two different fixes of row {fix.row}", do="Keep one of them.")
    if not found:
        raise DataError(f"{path}: no row has a label or a mark in the column drop", do=do)
    return list(found.values())


def apply_fixes(
    fixes: list[Fix], source: LabelledTexts, parts: dict[str, list[int]], where: str
) -> tuple[dict[str, list[int]], Fixed]:
    """Relabel rows of train and val in `source`, and drop others. parts: the positions of each split's rows.

    Test rows are left unchanged. Returns the splits without the dropped rows, and counts. Raises DataError for an
    unknown row or label.
    """
    labels = set(source.labels)
    unknown = sorted({fix.label for fix in fixes if fix.label is not None} - labels)
    if unknown:
        raise DataError(
            f"{where}: labels that are not in the data",
            got=listed(unknown),
            known=listed(sorted(labels)),
            do="Spell them as in the data.",
        )
    places: dict[int, list[tuple[str, int]]] = {}
    for split, own in parts.items():
        for at in own:
            places.setdefault(source.rows[at], []).append((split, at))
    relabelled = as_before = 0
    dropped: set[int] = set()
    test = []
    for fix in fixes:
        here = [(split, at) for split, at in places.get(fix.row, []) if fix.split in ("", split)]
        if len(here) != 1:
            raise DataError(
                f"{where}: row {fix.row} is " + ("in several files" if here else "in no split"),
                do="Name its split in a column split: train, val or test." if here else "Leave it out.",
            )
        [(split, at)] = here
        if fix.label == source.labels[at]:
            as_before += 1
        elif split == "test":
            test.append(fix.row)
        elif fix.label is None:
            dropped.add(at)
        else:
            source.labels[at], relabelled = fix.label, relabelled + 1
    if not relabelled and not dropped:
        raise DataError(
            f"{where}: changes no training or validation row",
            got=f"{counted(as_before, 'row')} with the label already in the data, {counted(len(test), 'test row')}",
            do="Correct labels in the column label, or mark rows in the column drop.",
        )
    kept = {split: [at for at in own if at not in dropped] for split, own in parts.items()}
    lost = sorted(labels - {source.labels[at] for at in kept["train"]})
    if lost or not all(kept.values()):
        raise DataError(
            f"{where}: too few rows are left to train on",
            got="none with the label " + listed(lost) if lost else "a split without rows",
            do="Drop or relabel fewer rows.",
        )
    return kept, Fixed(relabelled, len(dropped), as_before, sorted(test))
