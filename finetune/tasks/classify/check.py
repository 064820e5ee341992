"""The report of ``finetune data check`` on a labelled table, as lines or as JSON."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from finetune.checkpoints.sources import locate_weights
from finetune.checkpoints.store import read_config
from finetune.console import clean, say
from finetune.errors import DataError, shorten
from finetune.recipe import Columns, Recipe, Split
from finetune.tables.card import TokenSpread, token_spread
from finetune.tables.checks import check_rows, letter_counts
from finetune.tables.codes import GUIDE, check_muted
from finetune.tables.column_checks import check_table
from finetune.tables.detect import Detected, detect_format
from finetune.tables.findings import LEVELS, Finding, by_severity, sample_of, without_muted
from finetune.tables.label_sets import find_several
from finetune.tables.near_duplicates import NearDuplicates, find_near_duplicates
from finetune.tables.readers import HEADER_NAMES, LabelledTexts
from finetune.tables.sources import DataSource, locate_data
from finetune.tables.splits import text_keys
from finetune.tables.tables import BINARY, is_utf8, look_at_bytes
from finetune.tasks.classify.data import check_several, locate_files, read_data
from finetune.tasks.classify.division import divide, near_train, near_train_findings, shared_groups
from finetune.tasks.classify.settings import Classify
from finetune.tokenizer import Tokenizer
from finetune.training.token_rows import encode

COLOURS = dict(zip(LEVELS, ("red", "yellow", ""), strict=True))


@dataclass(frozen=True)
class FileFormat:
    """How the file was read."""

    kind: str
    delimiter: str
    encoding: str
    header: bool
    quoting: bool
    notes: list[str]
    lost_by_quoting: int  # rows that a reader with default quoting would lose


@dataclass(frozen=True)
class ColumnNames:
    """The columns that were read; several text columns are joined with commas."""

    text: str
    label: str


@dataclass(frozen=True)
class Lengths:
    """Text lengths in characters and in tokens, and the number of texts longer than the context."""

    tokenizer: str
    context: int
    characters: TokenSpread
    tokens: TokenSpread
    cut_rows: int


@dataclass(frozen=True)
class DuplicateCounts:
    """Rows that repeat an earlier text, and rows with a near duplicate."""

    exact_rows: int
    near_rows: int


@dataclass(frozen=True)
class LetterCounts:
    """Letters in a sample of the texts, and the non-Latin ones among them."""

    counted: int
    other_alphabet: int


@dataclass(frozen=True)
class TableReport:
    """The result of ``finetune data check``. The fields and their order are those of its JSON."""

    schema_version: int
    file: str
    format: FileFormat
    columns: ColumnNames
    rows: int
    dropped: dict[str, int]  # reason -> rows
    labels: dict[str, int]  # label -> rows, the most frequent first
    lengths: Lengths
    duplicates: DuplicateCounts
    letters: LetterCounts
    muted: list[str]  # codes of findings that are left out
    findings: list[Finding]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; each finding has its code."""
        return asdict(self) | {"findings": [finding.to_json() for finding in self.findings]}


def check_file(
    name: str,
    columns: Columns | None = None,
    weights: str = "mini",
    encoding: str | None = None,
    ignore: Sequence[str] = (),
    validation: str = "",
    test: str = "",
    labels: str | None = None,
) -> TableReport:
    """Check the table called `name`: a file or a data set in the registry. Findings with a code in `ignore` are muted.

    The rows are split as training would, by the given columns and with the further tables. labels: as the setting
    ``classify.labels``. Row numbers start at 0 and do not count the header. Raises DataError if a table cannot be read,
    RecipeError for a code that cannot be muted.
    """
    muted, columns = check_muted(ignore), columns or Columns()
    data = locate_data(name, encoding)
    detected, guessed = _detect(data, encoding)
    findings, layout = [guessed] if guessed else [], detected.layout
    recipe = Recipe(
        data=name,
        validation=validation,
        test=test,
        columns=columns,
        split=Split(protocol="time" if columns.time else "grouped"),
        encoding=encoding or (layout.encoding if guessed else None),
    ).model_copy(update={"classify": Classify(labels=labels or "one")})
    files = locate_files(recipe)
    source = read_data(recipe)
    if labels is None and (several := find_several(source.labels)):
        findings.append(check_several(source, several))
    for side, file in files.items():
        known = detected if not side else file.detected
        own = check_table(file.path, known, source, bool(side or columns.split))
        findings += [replace(one, what=f"{file.name}: {one.what}") for one in own] if len(files) > 1 else own
    findings += _notes_of_reading(files, source)
    found = locate_weights(weights)
    context = (found.config or read_config(found.directory)).context
    tokens = encode(Tokenizer.from_directory(found.directory), source.texts, show="counting tokens")
    lengths = np.array(tokens.lengths())
    keys = text_keys(source.texts)
    near = find_near_duplicates(source.texts, keys)
    findings += check_rows(source, keys, near, lengths, context)
    if not any(finding.level == "stop" for finding in findings):
        findings += _split_findings(recipe, source, keys, near)
    letters, foreign = letter_counts([source.texts[at] for at in sample_of(source)])
    return TableReport(
        schema_version=1,
        file=str(data.path),
        format=FileFormat(
            layout.kind,
            layout.delimiter,
            layout.encoding,
            layout.header,
            layout.quoting,
            list(detected.notes),
            detected.lost_by_quoting,
        ),
        columns=ColumnNames(source.text_column, source.label_column),
        rows=len(source.rows),
        dropped=source.dropped,
        labels=dict(Counter(source.every_label).most_common()),
        lengths=Lengths(
            tokenizer=found.name,
            context=context,
            characters=token_spread([len(text) for text in source.texts]),
            tokens=token_spread(lengths.tolist()),
            cut_rows=int((lengths > context).sum()),
        ),
        duplicates=DuplicateCounts(len(keys) - len(np.unique(keys)), len(near.rows())),
        letters=LetterCounts(letters, foreign),
        muted=muted,
        findings=by_severity(without_muted(findings, muted)),
    )


def _detect(data: DataSource, encoding: str | None) -> tuple[Detected, Finding | None]:
    """How the table is written, and a finding if its encoding had to be guessed."""
    detected = detect_format(data.path, encoding, HEADER_NAMES)
    if detected.layout != data.layout:  # the registry says how its files are read
        detected = Detected(data.layout, (), 0 if data.layout.quoting else detected.lost_by_quoting)
    layout = detected.layout
    if layout.encoding != "utf-8-sig" or not data.path.is_file() or layout.kind in BINARY or is_utf8(data.path):
        return detected, None
    odd = look_at_bytes(data.path)
    guessed = Finding(
        "encoding",
        "stop",
        f"the file is not UTF-8: the first invalid line is line {odd.line}; "
        f"{odd.share()}. It is checked as {odd.guess}, a guess that reads {odd.sample}",
        odd.fix(),
        examples=[odd.sample],
    )
    return replace(detected, layout=replace(layout, encoding=odd.guess)), guessed


def _notes_of_reading(files: dict[str, DataSource], source: LabelledTexts) -> list[Finding]:
    """The notes on the columns, without those on how the files are written."""
    said = {note for file in files.values() for note in file.detected.notes}
    notes = [note for note in source.notes if note not in said and note.partition(": ")[2] not in said]
    return [Finding("columns", "note", note) for note in notes]


def _split_findings(recipe: Recipe, source: LabelledTexts, keys: np.ndarray, near: NearDuplicates) -> list[Finding]:
    """The findings on splitting: that the rows cannot be split, or what the given splits have in common."""
    try:
        parts = divide(recipe, source, keys)
    except DataError as error:
        what = error.what + (f"; got {error.got}" if error.got else "")
        return [Finding("cannot_split", "stop", what, error.do)]
    return shared_groups(source, parts) + near_train_findings(near_train(near, keys, parts))


def show(report: TableReport, as_json: bool = False) -> None:
    """Print a report. Raises DataError if it has a finding that prevents training."""
    if as_json:
        print(json.dumps(report.to_json(), ensure_ascii=True, indent=2, allow_nan=False))
    else:
        _show_lines(report)
        show_findings(report.findings)
    refuse_stops(report.file, report.findings)


def refuse_stops(file: str, findings: list[Finding]) -> None:
    """Raise DataError for a finding that prevents training."""
    for finding in findings:
        if finding.level == "stop":
            raise DataError(f"{file}: {finding.what} [{finding.code}]", do=finding.do)


def _show_lines(report: TableReport) -> None:
    layout, lengths, labels = report.format, report.lengths, report.labels
    how = (
        layout.kind
        if layout.kind != "delimited"
        else (
            f"fields separated by {layout.delimiter!r}, {'a header' if layout.header else 'no header'}, "
            f"{'quotes' if layout.quoting else 'no quoting'}, {layout.encoding.removesuffix('-sig')}"
        )
    )
    say(f"file     {report.file}")
    say(f"format   {how}")
    say(f"columns  text {report.columns.text!r}, label {report.columns.label!r}")
    say(
        f"rows     {report.rows:,}"
        + "".join(f"; {count:,} left out: {reason}" for reason, count in report.dropped.items())
        + " (row numbers start at 0)"
    )
    shown = [f"{shorten(label)} {count:,} ({count / report.rows:.0%})" for label, count in list(labels.items())[:8]]
    say(f"labels   {', '.join(shown)}" + (f" and {len(labels) - 8:,} more" if len(labels) > 8 else ""))
    for heading, unit, spread in (("lengths", "characters", lengths.characters), ("", "tokens", lengths.tokens)):
        say(
            f"{heading:8} median {spread.median:,} {unit}, 95 % within {spread.p95:,}, longest {spread.max:,}"
            + (f"; {lengths.tokenizer} reads {lengths.context:,}" if unit == "tokens" else "")
        )
    if report.muted:
        say(f"muted    {', '.join(report.muted)}")


def show_findings(findings: list[Finding]) -> None:
    """A row for each finding. Content of the file is shown as plain text, never as markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not findings:
        say("no problems found")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("code", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("finding", ratio=5)
    table.add_column("what to do", ratio=3)
    for finding in findings:
        what = Text(clean(finding.what))
        for example in finding.examples_by_place:
            what.append(clean("\n  " + example), style="dim")
        table.add_row(finding.code, Text(finding.level, style=COLOURS[finding.level]), what, Text(clean(finding.do)))
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False, width=120)
    console.print(table)
    say(f"{GUIDE} explains each code; --ignore CODE mutes one")
