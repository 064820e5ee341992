"""Labelled rows: read from the recipe's files, divided, counted and checked."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import PlainSerializer

from finetune.errors import DataError, counted, listed
from finetune.files import sha256_tree
from finetune.recipe import Recipe
from finetune.records import DataOrigin, PreparedRow, Record
from finetune.tables.checks import check_rows
from finetune.tables.codes import BY_NAME, check_muted
from finetune.tables.column_checks import check_table
from finetune.tables.findings import Finding, by_severity, without_muted
from finetune.tables.fixes import apply_fixes, read_fixes
from finetune.tables.label_sets import SeveralLabels, find_several, join_cells_of
from finetune.tables.near_duplicates import find_near_duplicates
from finetune.tables.readers import LabelledTexts, read_labelled
from finetune.tables.sources import DataSource, locate_data
from finetune.tables.splits import SPLITS, text_keys
from finetune.tables.tables import iterate_table, with_fields
from finetune.tables.times import parse_times
from finetune.tasks.classify.division import divide, near_train, near_train_findings, shared_groups
from finetune.tokenizer import Tokenizer
from finetune.training.pieces import CUT, HEAD_TAIL, WINDOWS, Pieces, count_windows
from finetune.training.token_rows import encode


@dataclass(frozen=True)
class SplitCounts(Record):
    """The rows of a split, in all and of each label."""

    rows: int
    labels: dict[str, int]


@dataclass(frozen=True)
class TokensRead(Record):
    """Pieces and tokens of the rows in use, for one way to read long texts."""

    pieces: int  # inputs of the model
    tokens: int  # in all pieces; tokens that two windows share count twice
    unread: int  # tokens in no piece


@dataclass(frozen=True)
class TokenCounts(Record):
    """Text lengths in tokens of the rows in use, and how texts longer than `max_length` are read."""

    median: int
    p95: int
    max: int
    total: int
    max_length: int
    cut_rows: int  # rows of more than max_length tokens
    long_texts: str = CUT  # how they are read
    ways: dict[str, TokensRead] = field(default_factory=dict)  # by the value of classify.long_texts


@dataclass(frozen=True)
class NearDuplicateCounts(Record):
    """The number of near-duplicate rows, and of test rows that are a near duplicate of a training row."""

    rows: int
    test_rows_near_train: int


@dataclass(frozen=True, kw_only=True)
class TableCard(Record):
    """The findings of the checks of labelled rows, and how the rows were divided."""

    rows: int
    labels: dict[str, int]
    columns: dict[str, str]  # text and label, as the table calls them
    dropped: dict[str, int]  # reason -> rows
    exact_duplicates: int
    groups: int  # of rows with the same normalised text
    protocol: str
    seed: int
    splits: dict[str, SplitCounts]
    unused_rows: int
    tokens: TokenCounts
    near_duplicates: NearDuplicateCounts
    checks: Annotated[list[Finding], PlainSerializer(lambda found: [finding.to_json() for finding in found])]
    notes: list[str]
    muted: list[str] = field(default_factory=list)  # codes of findings that the recipe ignores

    def of(self, origin: DataOrigin) -> "ClassifierCard":
        """This card with the origin of the data."""
        return ClassifierCard(**vars(origin), **vars(self))


@dataclass(frozen=True, kw_only=True)
class ClassifierCard(TableCard, DataOrigin):
    """The content of data/card.json."""


@dataclass(frozen=True)
class LabelledRow(PreparedRow):
    """A text and its label, or its labels joined as in tables/label_sets.py."""

    text: str
    label: str


class Records(Sequence[LabelledRow]):
    """The rows of a split, each created on access."""

    def __init__(self, source: LabelledTexts, positions: list[int]):
        self.source, self.positions = source, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> LabelledRow:  # type: ignore[override]  # nobody takes a slice
        i = self.positions[index]
        return LabelledRow(self.source.rows[i], self.source.texts[i], self.source.labels[i])


def prepare(
    recipe: Recipe, source: LabelledTexts, tokenizer: Tokenizer, context: int, findings: Sequence[Finding] = ()
) -> tuple[dict[str, Records], dict[str, Pieces], TableCard]:
    """Split and tokenize the rows. Returns the records and their pieces by split, and the data card.

    findings: those on the files, which the card lists together with those on the rows.
    Memory beyond the texts themselves is some tens of bytes per row.
    """
    split = recipe.split
    keys = text_keys(source.texts)
    parts = fix_rows(recipe, source, divide(recipe, source, keys))
    counts = np.unique(keys, return_counts=True)[1]
    of_split = {name: Counter(label for i in parts[name] for label in source.labels_of(i)) for name in SPLITS}
    max_length, long_texts = min(recipe.max_length or context, context), recipe.classify.long_texts
    used = np.sort(np.concatenate([parts[name] for name in SPLITS]))
    ids = encode(tokenizer, source.texts, show="tokenizing")
    all_lengths = np.array(ids.lengths())
    lengths = all_lengths[used]
    near = find_near_duplicates(source.texts, keys)
    distinct = {
        blake2b(f"{label}\0{text}".encode("utf-8", "replace"), digest_size=8).digest()
        for text, label in zip(source.texts, source.labels, strict=True)
    }
    close = near_train(near, keys, parts)
    muted = check_muted(recipe.ignore)
    found = [
        *findings,
        *shared_groups(source, parts),
        *near_train_findings(close),
        *check_rows(source, keys, near, None if long_texts == WINDOWS else all_lengths, max_length),
    ]
    checks = without_muted(by_severity(found), muted)
    told = {finding.what for finding in checks}
    card = TableCard(
        rows=len(source.texts),
        labels=dict(Counter(source.every_label).most_common()),
        columns={"text": source.text_column, "label": source.label_column},
        dropped=source.dropped,
        exact_duplicates=len(source.texts) - len(distinct),
        groups=len(counts),
        protocol=split.protocol,
        seed=split.seed,
        splits={name: SplitCounts(len(parts[name]), dict(of_split[name].most_common())) for name in SPLITS},
        unused_rows=len(source.texts) - len(used),
        tokens=TokenCounts(
            median=int(np.median(lengths)),
            p95=int(np.percentile(lengths, 95)),
            max=int(lengths.max()),
            total=int(lengths.sum()),
            max_length=max_length,
            cut_rows=int((lengths > max_length).sum()),
            long_texts=long_texts,
            ways=tokens_read(lengths, max_length),
        ),
        near_duplicates=NearDuplicateCounts(len(near.rows()), int(close.sum())),
        checks=checks,
        notes=[
            note
            for note in (*_notes(recipe, source, parts, int(counts.max()), keys), *length_notes(recipe, context))
            if note not in told
        ],
        muted=muted,
    )
    return (
        {name: Records(source, parts[name]) for name in SPLITS},
        {name: Pieces.of(ids, long_texts, max_length, parts[name]) for name in SPLITS},
        card,
    )


def tokens_read(lengths: np.ndarray, most: int) -> dict[str, TokensRead]:
    """The tokens that each way to read long texts reads of texts of these lengths (n,)."""
    windows, read = count_windows(lengths, most), int(np.minimum(lengths, most).sum())
    total, shared = int(lengths.sum()), int((windows - 1).sum()) * (most // 4)
    begun = TokensRead(len(lengths), read, total - read)
    return {CUT: begun, HEAD_TAIL: begun, WINDOWS: TokensRead(int(windows.sum()), total + shared, 0)}


def fix_rows(recipe: Recipe, source: LabelledTexts, parts: dict[str, list[int]]) -> dict[str, list[int]]:
    """Correct the labels of train and val by the recipe's fixes; returns the splits without the dropped rows."""
    for name in recipe.classify.fixes:
        path = Path(name)
        parts, fixed = apply_fixes(read_fixes(path), source, parts, path.name)
        source.notes.append(f"{path.name}: {fixed}")
    return parts


def _notes(recipe: Recipe, source: LabelledTexts, parts: dict, largest: int, keys: np.ndarray) -> list[str]:
    notes = [*source.notes, *(str(part) for part in source.left_out if part.code not in recipe.ignore)]
    together = "rows with the same text after normalising (NFKC, casefold, digits to 0, white space folded) "
    if recipe.split.protocol == "balanced":
        used = sum(map(len, parts.values()))
        notes.append(
            f"the larger classes were downsampled at random: {used} of {len(source.texts)} rows are used, and "
            "the same text can occur in both train and test (see the overlap)"
        )
    elif any(source.sides) or recipe.split.protocol in ("ordered", "time"):
        if recipe.split.protocol == "time":
            notes.append(_periods(source, parts))
        if recipe.split.protocol == "ordered":
            notes.append("rows are split in file order: train, then test, then validation")
        notes += _given_sides(source, parts, keys)
    else:
        notes.append(together + "are in the same split")
        shares = {"val": recipe.split.val_fraction, "test": recipe.split.test_fraction}
        shares = {"train": 1 - sum(shares.values())} | shares
        for name, share in shares.items():
            held, wanted = len(parts[name]), share * len(source.texts)
            if largest > 1 and abs(held - wanted) > max(0.2 * wanted, 2):  # a difference of two rows is rounding
                notes.append(
                    f"the {name} split holds {held / len(source.texts):.0%} of the rows instead of "
                    f"{share:.0%}: rows of the same normalised text stay together, and the largest such group "
                    f"has {largest} rows"
                )
    if any(source.groups):
        notes.append(f"rows with the same {recipe.columns.group!r} are in the same split")
    return notes


def length_notes(recipe: Recipe, context: int) -> list[str]:
    """A note if the recipe asks for longer texts than the weights can read."""
    if (recipe.max_length or 0) <= context:
        return []
    return [
        f"max_length={recipe.max_length} is more than the {context} tokens that these weights read: {context} is used"
    ]


def _periods(source: LabelledTexts, parts: dict) -> str:
    """The first and last time of each split, as the table writes them."""
    times = parse_times(source, "")
    said = []
    for name, rows in parts.items():
        order = sorted(rows, key=times.__getitem__)
        said.append(f"{name} {source.times[order[0]]} to {source.times[order[-1]]}")
    return f"split by time: {'; '.join(said)}"


def _given_sides(source: LabelledTexts, parts: dict, keys: np.ndarray) -> list[str]:
    """Notes on splits that came with the data, and on texts that occur in two splits."""
    came = [name for name in ("val", "test") if name in source.sides]
    notes = [f"the {' and '.join(came)} rows were given separately and are kept so" if came else ""]
    for name, others in (("val", ["train"]), ("test", ["train", "val"])):
        seen = np.concatenate([parts[other] for other in others]).astype(int)
        if both := int(np.isin(keys[parts[name]], keys[seen]).sum()):
            notes.append(
                f"{both} of {len(parts[name])} {name} rows have the same normalised text as a {' or '.join(others)} row; "
                "the report also gives the figures without them"
            )
    return [note for note in notes if note]


PURPOSES = {"": "training", "val": "validation", "test": "test"}


def locate_files(recipe: Recipe) -> dict[str, DataSource]:
    """The recipe's table under "", and the separate ones for validation and test under the name of their split."""
    named = {"": recipe.data, "val": recipe.validation, "test": recipe.test}
    return {side: locate_data(name, recipe.encoding) for side, name in named.items() if name or not side}


def read_data(recipe: Recipe) -> LabelledTexts:
    """The recipe's labelled rows: those of its file, and those of the files for validation and test, each in its split.

    Raises DataError for a separate file that is another file or its copy, or has labels without a training row.
    """
    columns, files = recipe.columns, locate_files(recipe)
    data = files.pop("")
    before = [(PURPOSES[""], data)]
    found = read_labelled(
        data.path,
        columns.text,
        columns.label,
        data.layout,
        group=columns.group,
        split=columns.split,
        time=columns.time,
        white_space=columns.white_space,
    )
    found.notes = _notes_of_reading(recipe, data, found)
    found.name = data.name
    several = find_several(found.labels, asked=recipe.classify.labels == "many")
    if recipe.classify.labels == "many":
        take_several(found, several)
    elif several and recipe.classify.labels is None:
        finding = check_several(found, several)
        raise DataError(f"{finding.what} [{finding.code}]", do=finding.do)
    if files:
        found.notes = [f"{data.name}: {note}" for note in found.notes]
    labels = set(found.every_label)
    for side, more in files.items():
        name = recipe.validation if side == "val" else recipe.test
        if found.sides and side in found.sides:
            raise DataError(
                f"{name}: {data.path.name} already has a split column with {side} rows",
                do="Leave out the file or the split column.",
            )
        _refuse_again(name, more, before)
        before.append((PURPOSES[side], more))
        _refuse_other_header(name, more, data, found)
        read = read_labelled(
            more.path,
            found.text_column,
            found.label_column,
            more.layout,
            1,
            columns.group,
            white_space=columns.white_space,
        )
        if recipe.classify.labels == "many":
            take_several(read, several)
        unknown = sorted(set(read.every_label) - labels)
        if unknown:
            raise DataError(
                f"{name}: labels that are not in {data.path.name}",
                got=listed(unknown),
                known=listed(sorted(labels)),
                do="Rename them, or add training rows with these labels.",
            )
        read.name = name if more.name in {found.name, *found.files} else more.name
        found.notes += [f"{read.name}: {note}" for note in _notes_of_reading(recipe, more, read)]
        found.extend(read, side)
    return found


def take_several(source: LabelledTexts, several: SeveralLabels | None) -> None:
    """Parse label cells with several labels, and note how they were read."""
    source.labels = join_cells_of(source.labels, several, source.name)
    source.many = True
    if len(labels := set(source.every_label)) < 2:
        raise DataError(
            f"{source.name}: classify.labels=many needs at least two labels", got=listed(sorted(labels)) or "none"
        )
    counts = np.array([len(source.labels_of(i)) for i in range(len(source.rows))])
    held = f"{several}; " if several else "no row has several; "
    source.notes.append(
        f"labels in column {source.label_column!r}: {held}{len(labels):,} labels, {counts.mean():.2f} per "
        f"row on average, at most {counts.max()}; {counted(int((counts == 0).sum()), 'row')} without a label"
    )


def check_several(source: LabelledTexts, several: SeveralLabels) -> Finding:
    """The finding on cells of several labels, if the recipe does not say whether a row has one label or many."""
    return Finding(
        "several_labels",
        "stop",
        f"column {source.label_column!r} seems to contain several labels per row: {several}",
        "To learn each label by itself: --set classify.labels=many; if each cell is one label: "
        "--set classify.labels=one",
        several.cells,
        examples=[several.example],
    )


def _notes_of_reading(recipe: Recipe, data: DataSource, read: LabelledTexts) -> list[str]:
    """How a file was read and its columns were found, without what the recipe ignores."""
    said = {"layout": data.detected.notes, "columns": read.notes}
    return [note for check, notes in said.items() if BY_NAME[check].code not in recipe.ignore for note in notes]


def _refuse_again(name: str, more: DataSource, before: list[tuple[str, DataSource]]) -> None:
    """Raise DataError for a file that is one of the earlier files, or a copy of one."""
    for purpose, known in before:
        same = more.path.resolve() == known.path.resolve()
        if same or sha256_tree(more.path) == sha256_tree(known.path):
            raise DataError(
                f"{name}: the {purpose} table, given again",
                got="" if same else f"a copy of {known.path.name}",
                do="Leave it out, so that rows are held out automatically, or give other rows.",
            )


def _refuse_other_header(name: str, more: DataSource, data: DataSource, found: LabelledTexts) -> None:
    """Raise DataError if only one of two files has a header."""
    layout = with_fields(more.path, more.layout, [found.text_column, found.label_column])
    first = next(iterate_table(more.path, layout), None)
    wanted = {part for column in (found.text_column, found.label_column) for part in (column, *column.split(","))}
    if first is None or more.layout.kind != "delimited" or wanted & set(first[0]):
        return
    raise DataError(
        f"{name}: no header with the columns of {data.path.name} was found"
        if data.layout.header
        else f"{data.path.name}: no header was found, but {name} seems to have one",
        got=f"the first row of {more.path.name}: {listed(first[0])}"
        if more.layout.header
        else f"columns called {listed(first[0])}",
        known=f"columns {found.text_column!r} and {found.label_column!r}",
        do="Give both files the same header as their first line.",
    )


def table_findings(recipe: Recipe, source: LabelledTexts) -> list[Finding]:
    """The findings on the recipe's files as tables; if there are several, each finding names its file."""
    files = locate_files(recipe)
    return [
        replace(finding, what=f"{data.name}: {finding.what}") if len(files) > 1 else finding
        for side, data in files.items()
        for finding in check_table(data.path, data.detected, source, bool(side or recipe.columns.split))
    ]
