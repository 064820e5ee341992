"""Read labelled texts from a table, and report every guess and every dropped row."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune.config import nearest
from finetune.errors import DataError, counted, listed
from finetune.tables.codes import BY_NAME
from finetune.tables.detect import detect_format
from finetune.tables.label_folders import SIDES
from finetune.tables.label_sets import labels_in, list_of_columns
from finetune.tables.tables import FOLDERS, SPLIT_COLUMN, TableFormat, iterate_table, no_rows, with_fields
from finetune.tables.white_space import fold_white_space

TEXT_NAMES = ("text", "message", "sms", "content", "body", "sentence", "v2")
LABEL_NAMES = ("label", "class", "category", "target", "v1")
HEADER_NAMES = frozenset(TEXT_NAMES + LABEL_NAMES)
SAMPLE = 1000  # rows sampled to infer the columns
SHOWN = 3  # number of dropped rows named in a message
MOST_LABELS = 100  # max distinct values of an inferred label column
TOTALS = frozenset({"total", "totals", "grand total", "sum", "count", "average", "mean", "summe", "gesamt"})


def place(row: int, file: str = "") -> str:
    """A row for a message: ``test.csv row 6``, or ``row 6`` if there is only one file."""
    return f"{file} row {row}".lstrip()


@dataclass
class LeftOut:
    """Count and first few of a file's rows without a text or a label."""

    reason: str
    count: int = 0
    rows: list[int] = field(default_factory=list)
    file: str = ""  # empty if there is only one file

    @property
    def check(self) -> str:
        """The check that finds such rows."""
        return self.reason.replace(" ", "_")

    @property
    def code(self) -> str:
        """The code of that check."""
        return BY_NAME[self.check].code

    def __str__(self) -> str:
        file = f"{self.file}: " if self.file else ""
        return f"{file}{counted(self.count, 'row')} left out: {self.reason} ({listed(list(map(place, self.rows)))})"


@dataclass
class LabelledTexts:
    """Rows in file order.

    The lists `groups`, `times`, `sides` and `files` are empty if no row has a value; else an empty string means none.
    """

    rows: list[int] = field(default_factory=list)  # row numbers in the file; the first data row is 0
    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    text_column: str = ""
    label_column: str = ""
    groups: list[str] = field(default_factory=list)  # rows of one group stay in the same split
    times: list[str] = field(default_factory=list)  # the time of each row, as in the table
    sides: list[str] = field(default_factory=list)  # the given split of each row; empty: we choose
    notes: list[str] = field(default_factory=list)  # how the file was read and its columns were found
    name: str = ""  # of the file
    files: list[str] = field(default_factory=list)  # the file of each row, if there are several
    many: bool = False  # whether `labels` holds the joined labels of each row (label_sets.py)

    def labels_of(self, at: int) -> list[str]:
        """The labels of the row at this position."""
        return labels_in(self.labels[at]) if self.many else [self.labels[at]]

    @property
    def every_label(self) -> list[str]:
        """The labels of all rows, in order."""
        return [label for own in self.labels for label in labels_in(own)] if self.many else self.labels

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> number of dropped rows, over all files."""
        return dict(sum((Counter({part.reason: part.count}) for part in self.left_out), Counter()))

    def drop(self, reason: str, row: int) -> None:
        """Count a row of this file as left out."""
        part = next((part for part in self.left_out if part.reason == reason), None)
        if part is None:
            self.left_out.append(part := LeftOut(reason))
        part.count += 1
        part.rows += [row] if len(part.rows) < SHOWN else []

    def extend(self, other: "LabelledTexts", side: str) -> None:
        """Append another file's rows, all in one split. Row numbers stay those of their own file."""
        other.sides = [side] * len(other.rows)
        for part in (self, other):
            part.groups, part.sides = part.groups or [""] * len(part.rows), part.sides or [""] * len(part.rows)
            part.files = part.files or [part.name] * len(part.rows)
            for own in part.left_out:
                own.file = own.file or part.name
        for name in ("rows", "texts", "labels", "groups", "sides", "files", "left_out"):
            getattr(self, name).extend(getattr(other, name))
        if not any(self.groups):
            self.groups = []


@dataclass(frozen=True)
class Columns:
    """The indices of the columns to read, and notes on columns that were inferred."""

    names: list[str]
    texts: list[int]
    labels: list[int]  # several if there is a column for each label
    notes: list[str]

    @property
    def text_column(self) -> str:
        """The name of the text column; several names are separated by commas, as in ``--text``."""
        return ",".join(self.names[index] for index in self.texts)

    @property
    def label_column(self) -> str:
        """The name of the label column, or of several, as in ``--label``."""
        return ",".join(self.names[index] for index in self.labels)

    def own(self, cells: list[str]) -> list[str]:
        """The label cells of a row."""
        return [cells[at].strip() for at in self.labels]

    def label_cell(self, cells: list[str], where: str) -> str:
        """The label of a row; with a column for each label, the list of its labels."""
        if len(self.labels) == 1:
            return cells[self.labels[0]].strip()
        return list_of_columns([self.names[at] for at in self.labels], [cells[at] for at in self.labels], where)


def find_column(
    names: list[str], wanted: str | None, usual: tuple[str, ...], what: str, path: Path | str, fix: str = ""
) -> int:
    """The index of the wanted column, else of the first usual name. Raises DataError with the existing names.

    fix: how to name another column, if no command has an option for it.
    """
    fix = fix or f"Name it with --{what} NAME, or in a recipe under columns.{what}."
    if wanted is not None:
        if names.count(wanted) > 1:
            raise DataError(f"{path}: {names.count(wanted)} columns are called {wanted!r}", do="Rename all but one.")
        if wanted in names:
            return names.index(wanted)
        raise DataError(f"{path}: no column {wanted!r}", got=", ".join(names), known=nearest(wanted, names), do=fix)
    found = usual_column(names, usual)
    if found is None:
        raise DataError(
            f"{path}: no {what} column recognised by its name", got=", ".join(names), known=", ".join(usual), do=fix
        )
    return find_column(names, names[found], usual, what, path)  # refuses a duplicate name


def usual_column(names: list[str], usual: tuple[str, ...]) -> int | None:
    """The index of the column with the first of the usual names, ignoring case."""
    return next((index for name in usual for index, own in enumerate(names) if own.strip().casefold() == name), None)


def find_text(names: list[str], wanted: str | None, path: Path | str) -> list[int]:
    """The text column, or several if `wanted` is a comma-separated list."""
    if wanted is None or wanted in names or "," not in wanted:
        return [find_column(names, wanted, TEXT_NAMES, "text", path)]
    return [find_column(names, part.strip(), TEXT_NAMES, "text", path) for part in wanted.split(",")]


def find_text_or_wordy(
    names: list[str], sample: list[list[str]], wanted: str | None, label: int | None, path: Path | str
) -> tuple[list[int], str]:
    """The text columns as ``find_text`` finds them; else the one whose content looks like text, and the reason.

    label: the label column, which is not considered.
    """
    if wanted is not None or usual_column(names, TEXT_NAMES) is not None:
        return find_text(names, wanted, path), ""
    chosen, why = _wordy_column(names, sample, {label})
    if chosen is None:
        raise _not_recognised(path, "text", names, why)
    return [chosen], why


def find_unlabelled_text(names: list[str], sample: list[list[str]], wanted: str | None, path: Path | str) -> list[int]:
    """The text columns of a table that needs no labels: the only column, else as ``find_text_or_wordy``."""
    if wanted is None and len(names) == 1:
        return [0]
    return find_text_or_wordy(names, sample, wanted, usual_column(names, LABEL_NAMES), path)[0]


def join_cells(cells: list[str], columns: list[int]) -> str:
    """The text of a row: its non-empty text columns joined with newlines."""
    if len(columns) == 1:
        return cells[columns[0]]
    return "\n".join(cells[index] for index in columns if cells[index].strip())


def find_columns(names: list[str], sample: list[list[str]], text: str | None, label: str | None, path: Path) -> Columns:
    """The text and label columns: as requested, else by their usual names, else by the content of the first rows.

    Raises DataError with the existing names if the choice is ambiguous.
    """
    if label is not None and label not in names and "," in label:  # a column for each label
        labels = [find_column(names, part.strip(), (), "label", path) for part in label.split(",")]
        texts, why = find_text_or_wordy(names, sample, text, labels[0], path)
        if set(labels) & set(texts):
            raise _same_column(names, texts[0], path)
        found = _by_name(names, usual_column(names, TEXT_NAMES) if text is None else None, None)
        return Columns(names, texts, labels, found + ([f"text column: {names[texts[0]]!r}, {why}"] if why else []))
    label_at = usual_column(names, LABEL_NAMES) if label is None else find_column(names, label, (), "label", path)
    text_at = usual_column(names, TEXT_NAMES)
    notes = _by_name(names, text_at if text is None else None, label_at if label is None else None)
    texts, why = find_text_or_wordy(names, sample, text, label_at, path)
    if why:
        notes.append(f"text column: {names[texts[0]]!r}, {why}")
    if label_at is not None:
        label_at = find_column(names, names[label_at], (), "label", path)  # refuses a duplicate name
    else:
        label_at, why = _label_column(names, sample, set(texts))
        if label_at is None:
            raise _not_recognised(path, "label", names, why, _binary_columns(names, sample, set(texts)))
        notes.append(f"label column: {names[label_at]!r}, {why}")
    if label_at in texts:
        raise _same_column(names, label_at, path)
    return Columns(names, texts, [label_at], notes)


def _same_column(names: list[str], at: int, path: Path) -> DataError:
    return DataError(
        f"{path}: the same column for text and label",
        got=repr(names[at]),
        known=", ".join(names),
        do="Name another with --text NAME or --label NAME.",
    )


def _by_name(names: list[str], text: int | None, label: int | None) -> list[str]:
    """Which columns were chosen by name, and the alternatives."""
    found = [
        (what, names[at], usual)
        for what, at, usual in (("text", text, TEXT_NAMES), ("label", label, LABEL_NAMES))
        if at is not None
    ]
    if not found:
        return []
    said = ", ".join(f"{what} column {name!r}" for what, name, _ in found)
    said += ": by their names" if len(found) > 1 else ": by its name"
    for what, name, usual in found:
        others = [repr(own) for own in names if own != name and own.strip().casefold() in usual]
        if others:
            said += f"; {listed(others)} could also be the {what} (--{what} NAME)"
    return [said]


def _binary_columns(names: list[str], sample: list[list[str]], taken: set) -> list[str]:
    """The columns of 0 and 1, if there are several: perhaps one for each label."""
    found = [
        names[index]
        for index in sorted(set(range(len(names))) - taken)
        if {row[index].strip() for row in sample} <= {"0", "1"}
    ]
    return found if len(found) > 1 else []


def _not_recognised(path: Path | str, what: str, names: list[str], why: str, binary: Sequence[str] = ()) -> DataError:
    usual = TEXT_NAMES if what == "text" else LABEL_NAMES
    each = f" A column for each label: --label {','.join(binary)} --set classify.labels=many" if binary else ""
    each += ", for data check --labels many" if binary else ""
    return DataError(
        f"{path}: no {what} column recognised by its name or content",
        got=", ".join(names) + (f" ({why})" if why else ""),
        known=", ".join(usual),
        do=f"Name it with --{what} NAME, or in a recipe under columns.{what}.{each}",
    )


def _wordy_column(names: list[str], sample: list[list[str]], taken: set) -> tuple[int | None, str]:
    """The column with by far the longest texts, and why."""
    lengths = {}
    for index in set(range(len(names))) - taken:
        cells = [row[index] for row in sample]
        if len(sample) >= 4 and sum(" " in cell.strip() for cell in cells) > len(cells) / 2:
            lengths[index] = sum(map(len, cells)) / len(cells)
    ordered = sorted(lengths, key=lengths.__getitem__, reverse=True)
    if not ordered:
        return None, ""
    best, others = ordered[0], [index for index in ordered[1:] if 1.5 * lengths[index] > lengths[ordered[0]]]
    if others:
        alike = [names[index] for index in (best, *others)]
        return None, f"{listed(alike)} all look like text; to join several, use --text {','.join(alike)}"
    return best, f"by its content: the longest texts, {lengths[best]:,.0f} characters on average"


def _label_column(names: list[str], sample: list[list[str]], taken: set) -> tuple[int | None, str]:
    """The only column with few, short, repeated values, and why."""
    different = {}
    for index in set(range(len(names))) - taken:
        values = Counter(row[index].strip() for row in sample)
        del values[""]
        if 2 <= len(values) <= min(MOST_LABELS, len(sample) / 2) and max(map(len, values)) <= 60:
            different[index] = len(values)
    if len(different) > 1:
        return None, "; ".join(f"{names[index]!r} has {count} values" for index, count in sorted(different.items()))
    if not different:
        return None, ""
    chosen, count = different.popitem()
    return chosen, f"by its content: {count} different values in {len(sample):,} rows"


def read_labelled(
    path: Path,
    text: str | None,
    label: str | None,
    layout: TableFormat | None = None,
    least_labels: int = 2,
    group: str | None = None,
    split: str | None = None,
    time: str | None = None,
    white_space: str = "keep",
) -> LabelledTexts:
    """Every row with a text and a label (see ``labelled_chunks``).

    Raises DataError if there are fewer than `least_labels` different labels.
    """
    result = next(labelled_chunks(path, text, label, layout, group, split, time, white_space=white_space))
    if len(set(result.labels)) < least_labels:
        raise _too_few_labels(path, result, least_labels)
    return result


def _too_few_labels(path: Path, result: LabelledTexts, least: int) -> DataError:
    what, got = "a classifier needs at least two labels", listed(sorted(set(result.labels))) or "none"
    fix = f"Is {result.label_column!r} the label column? Name another with --label NAME."
    if not result.labels:
        what = what if least > 1 else "no row has a text and a label"
        if result.dropped:
            got += "; left out: " + ", ".join(
                f"{counted(count, 'row')}, {reason}" for reason, count in result.dropped.items()
            )
        if set(result.dropped) == {"empty text"}:
            fix = f"Is {result.text_column!r} the text column? Name another with --text NAME."
    return DataError(f"{path}: {what}", got=got, do=fix)


def labelled_chunks(
    path: Path,
    text: str | None,
    label: str | None,
    layout: TableFormat | None = None,
    group: str | None = None,
    split: str | None = None,
    time: str | None = None,
    size: int | None = None,
    white_space: str = "keep",
) -> Iterator[LabelledTexts]:
    """The rows with a text and a label, in chunks of `size` or all at once; other rows are counted in `left_out`.

    group, split, time: the columns with each row's group, split and time. white_space: keep, or fold (see white_space).
    """
    path = Path(path)
    notes = []
    if layout is None:
        detected = detect_format(path, header_names=HEADER_NAMES)
        layout, notes = detected.layout, list(detected.notes)
    layout = with_fields(path, layout, [text, label, group, split, time])
    table = iterate_table(path, layout)
    sample = list(itertools.islice(table, SAMPLE))
    if not sample:
        raise no_rows(path) if layout.header and layout.kind == "delimited" else no_rows(path, "no rows", "none")
    names = sample[0][0]
    columns = find_columns(names, [cells for _, cells in sample], text, label, path)
    if split is None and layout.kind in FOLDERS and names[-1] == SPLIT_COLUMN:
        split = SPLIT_COLUMN
    group_at, split_at, time_at = (
        None if wanted is None else find_column(names, wanted, (), what, path)
        for wanted, what in ((group, "group"), (split, "split"), (time, "time"))
    )

    def empty() -> LabelledTexts:
        return LabelledTexts(
            text_column=columns.text_column,
            label_column=columns.label_column,
            notes=notes + columns.notes,
            name=path.name,
        )

    often = Counter(tuple(columns.own(cells)) for _, cells in sample)
    result = empty()
    known: dict[str, str] = {}  # one string object per label and group instead of one per row
    for row, (_, cells) in enumerate(itertools.chain(sample, table)):
        if len(result.rows) == size:
            yield result
            result = empty()
        text_cell = join_cells(cells, columns.texts)
        if white_space == "fold":
            text_cell = fold_white_space(text_cell)
        if reason := _no_example(text_cell, columns.own(cells), columns, often):
            result.drop(reason, row)
            continue
        label_cell = columns.label_cell(cells, f"{path}, row {row}")
        result.rows.append(row)
        result.texts.append(text_cell)
        result.labels.append(known.setdefault(label_cell, label_cell))
        if group_at is not None:
            result.groups.append(known.setdefault(cells[group_at].strip(), cells[group_at].strip()))
        if time_at is not None:
            result.times.append(cells[time_at].strip())
        if split_at is not None:
            result.sides.append(_side(cells[split_at], names[split_at], row, path))
    yield result


def _no_example(text: str, own: list[str], columns: Columns, often: Counter[tuple[str, ...]]) -> str:
    """Why a row is left out; empty if it is not. own: its label cells. often: the usual label cells of the first rows.

    A total is a number that is not one of the usual label cells.
    """
    if not text.strip():
        return "empty text"
    if not any(own):
        return "empty label"
    if own == columns.own(columns.names) and text.strip() == join_cells(columns.names, columns.texts).strip():
        return "repeated header"
    if often[tuple(own)] < 2 and text.strip(" :.").casefold() in TOTALS and all(map(_is_number, own)):
        return "total row"
    return ""


def _is_number(cell: str) -> bool:
    return cell.strip().replace(",", "").replace(".", "", 1).isdecimal()


def _side(cell: str, column: str, row: int, path: Path) -> str:
    side = SIDES.get(cell.strip().casefold())
    if side is None:
        raise DataError(
            f"{path}: row {row}: unknown split in column {column!r}", got=repr(cell[:40]), known=", ".join(SIDES)
        )
    return side


def text_chunks(texts: list[str], characters: int = 1 << 20) -> Iterator[tuple[int, list[str]]]:
    """Yield (first position, texts) in chunks of about `characters`; a longer text is a chunk by itself."""
    start = size = 0
    for end, text in enumerate(texts):
        if size and size + len(text) > characters:
            yield start, texts[start:end]
            start, size = end, 0
        size += len(text) + 1
    if texts:
        yield start, texts[start:]
