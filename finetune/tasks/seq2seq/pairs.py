"""Read pairs of a source and a target text from a table of any kind; rows left out are counted."""

from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from finetune.errors import DataError, counted, listed
from finetune.hub.datasets import PREFIX
from finetune.records import PreparedRow, Record
from finetune.tables.card import ExamplesCard, TokenSpread
from finetune.tables.detect import detect_format
from finetune.tables.readers import find_column, usual_column
from finetune.tables.sources import DataSource, sample_source, samples, table_source
from finetune.tables.tables import TableFormat, iterate_table

USUAL = (
    ("source", "target"),
    ("src", "tgt"),
    ("source_text", "target_text"),
    ("sources", "targets"),
    ("input", "output"),
    ("inputs", "targets"),
    ("input_text", "target_text"),
    ("document", "summary"),
    ("article", "highlights"),
    ("article", "summary"),
    ("dialogue", "summary"),
    ("text", "summary"),
    ("question", "answer"),
)
PAIR_NAMES = frozenset(chain.from_iterable(USUAL))  # names that only a header contains
MOST_WORDS = 4  # maximum words of a column's name
FEWEST = 3  # pairs: one each for training, validation and test


@dataclass(frozen=True)
class TextPair(PreparedRow):
    """A source and its target."""

    source: str
    target: str


@dataclass
class Pairs:
    """Records in file order."""

    columns: tuple[str, str]  # names of the source and target columns
    notes: list[str]  # how the file was read and its columns found
    records: list[TextPair] = field(default_factory=list)
    dropped_rows: dict[str, list[int]] = field(default_factory=dict)  # reason -> rows

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> number of rows left out for it."""
        return {reason: len(rows) for reason, rows in self.dropped_rows.items()}


@dataclass(frozen=True)
class PairTokens(Record):
    """Lengths of sources and targets, and how many pairs did not fit."""

    source: TokenSpread
    target: TokenSpread
    max_length: int
    cut: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class PairsCard(ExamplesCard):
    """The content of this task's data/card.json."""

    given: list[str]  # splits that come from separate files
    dropped: dict[str, int]  # reason -> rows left out
    dropped_rows: dict[str, list[int]]  # reason -> row numbers
    columns: list[str]
    family: str
    different_sources: int
    tokens: PairTokens


def read_column(data: DataSource, name: str) -> dict[int, str]:
    """Row number -> cell of another column of the pairs' table. Raises DataError if there is none of this name."""
    layout = data.layout or detect_format(data.path, header_names=PAIR_NAMES).layout
    found = {}
    for row, (names, cells) in enumerate(iterate_table(data.path, layout)):
        fix = "Name another with --set evaluate.slice_by=COL."
        found[row] = cells[find_column(names, name, (), "slice_by", data.path, fix)]
    return found


def read_pairs(
    path: Path,
    source_column: str | None = None,
    target_column: str | None = None,
    layout: TableFormat | None = None,
    fewest: int = FEWEST,
) -> Pairs:
    """Every row with a source and a target, both unchanged; other rows are counted in `dropped`.

    Raises DataError for a file that is not a table, for columns that are not recognised, and for fewer pairs than
    `fewest`.
    """
    path, notes = Path(path), []
    if layout is None:
        detected = detect_format(path, header_names=PAIR_NAMES)
        layout, notes = detected.layout, list(detected.notes)
    if headless := _without_names(path, layout, (source_column, target_column)):
        layout = headless
        notes.append(f"no header: the first row is data, and the columns are called {', '.join(layout.columns)}")
    table = iterate_table(path, layout)
    first = next(table, None)
    if first is None:
        raise DataError(
            f"{path}: no rows" if layout.kind != "delimited" else f"{path}: a header and no rows",
            known="one row per pair, with a source and a target",
            do="Add some.",
        )
    names = first[0]
    at, how = find_pair(names, source_column, target_column, path)
    found = Pairs((names[at[0]], names[at[1]]), notes + how)
    for row, (_, cells) in enumerate(chain([first], table)):
        source, target = (cells[index] for index in at)
        if source.strip() and target.strip():
            found.records.append(TextPair(row, source, target))
        else:
            reason = "empty target" if source.strip() else "empty source"
            found.dropped_rows.setdefault(reason, []).append(row)
    if len(found.records) < fewest:
        left_out = "; ".join(f"{counted(count, 'row')} left out: {reason}" for reason, count in found.dropped.items())
        raise DataError(
            f"{path}: too few pairs",
            got=f"{len(found.records)} with a source in {found.columns[0]!r} and a target in "
            f"{found.columns[1]!r}" + (f" ({left_out})" if left_out else ""),
            known=f"at least {fewest}, one each for training, validation and test",
            do="Add some, or name other columns.",
        )
    return found


def _without_names(path: Path, layout: TableFormat, wanted: tuple[str | None, str | None]) -> TableFormat | None:
    """The layout without a header if the first row is a pair: one of its cells is a sentence, by its length or its end."""
    first = next(iterate_table(path, layout), None) if layout.kind == "delimited" and layout.header else None
    names = first[0] if first else []
    if (
        len(names) < 2
        or set(wanted) & set(names)
        or _usual_pair(names, None, None)
        or not any(
            len(name.split()) > MOST_WORDS or name.rstrip().endswith((".", "!", "?", "\N{HORIZONTAL ELLIPSIS}"))
            for name in names
        )
    ):
        return None
    more = (f"column {number}" for number in range(3, len(names) + 1))
    return replace(layout, header=False, columns=("source", "target", *more))


def find_pair(
    names: list[str], source: str | None, target: str | None, path: Path
) -> tuple[tuple[int, int], list[str]]:
    """The indices of the two columns, and a note on how they were found if they were not named.

    In this order: as named, the first usual pair of names, the only two columns. Raises DataError if none applies.
    """
    named = {
        what: None if wanted is None else find_column(names, wanted, (), what, path, _mend(what))
        for what, wanted in (("source", source), ("target", target))
    }
    at, why = _usual_pair(names, named["source"], named["target"]), "by their names"
    if at is None:
        open_sides = [what for what, index in named.items() if index is None]
        rest = [index for index in range(len(names)) if index not in named.values()]
        if len(rest) != len(open_sides):
            raise DataError(
                f"{path}: no {' and '.join(open_sides)} column recognised by its name",
                got=listed(names),
                known=", ".join(map("/".join, USUAL)),
                do=" ".join(map(_mend, open_sides)),
            )
        first, second = (rest.pop(0) if index is None else index for index in named.values())
        at = first, second
        why = "the only columns; the first row is read as the header"
    for what, index in zip(named, at, strict=True):
        find_column(names, names[index], (), what, path, _mend(what))  # refuses a duplicate name
    if at[0] == at[1]:
        raise DataError(
            f"{path}: source and target are the same column",
            got=repr(names[at[0]]),
            known=listed(names),
            do=_mend("target"),
        )
    if None not in named.values():
        return at, []
    return at, [f"source column {names[at[0]]!r}, target column {names[at[1]]!r}: {why}"]


def _usual_pair(names: list[str], source: int | None, target: int | None) -> tuple[int, int] | None:
    """The first usual pair of columns that contains the sides already given."""
    if source is not None and target is not None:
        return source, target
    for usual in USUAL:
        one, other = (usual_column(names, (name,)) for name in usual)
        if one is not None and other is not None and source in (None, one) and target in (None, other):
            return one, other
    return None


def _mend(what: str) -> str:
    return f"Name it with --set seq2seq.{what}=NAME."


def locate_pairs(name: str, encoding: str | None = None) -> DataSource:
    """Find the table of pairs called `name`. Raises DataError.

    name: a file, a folder saved by `datasets`, ``hf:OWNER/NAME``, or the bundled ``seq2seq-sample``.
    """
    bundled = samples(folder="seq2seq")
    if name in bundled:
        return sample_source(name)
    if found := table_source(name, encoding, PAIR_NAMES):
        return found
    raise DataError(
        f"{name!r} is neither a bundled set of pairs nor an existing file",
        known=", ".join([*bundled, f"{PREFIX}OWNER/NAME"]),
        do="Give a .csv, .tsv, .json, .jsonl or .parquet file, for example --set data=my.tsv",
    )
