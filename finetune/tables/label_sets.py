"""Several labels per row: cells such as ``billing;refund``, lists, or a column for each label.

A row's labels are stored as one string, sorted and joined with ``SEPARATOR``, as `predict` writes them.
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.errors import DataError, counted, listed, shorten

SEPARATOR = ";"
SEPARATORS = (";", "|", ",")
ON = frozenset({"1", "1.0", "true", "yes", "y", "x"})
OFF = frozenset({"", "0", "0.0", "false", "no", "n"})
LONGEST = 60  # maximum characters of a label in a cell with several
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")


@dataclass(frozen=True)
class SeveralLabels:
    """How the cells of a label column encode several labels."""

    separator: str  # empty if only lists do
    lists: bool
    cells: int  # rows whose cell has several labels, or a list
    example: str

    def __str__(self) -> str:
        ways = ["lists"] * self.lists + [f"labels joined with {self.separator!r}"] * bool(self.separator)
        return f"{' and '.join(ways)} in {counted(self.cells, 'row')}, such as {shorten(self.example, 60)!r}"


def find_several(cells: Iterable[str], asked: bool = False) -> SeveralLabels | None:
    """How these label cells encode several labels; None if each has one.

    A list always counts. Cells with a separator count if their parts recur in other cells: for ``;`` one part of any of
    them, for ``|`` and ``,`` all parts of half of them. asked: whether the user asked for several labels; then ``;``
    and ``|`` always count.
    """
    counts = Counter(cells)
    lists = {cell: count for cell, count in counts.items() if cell.startswith("[") and read_list(cell) is not None}
    plain = {cell: count for cell, count in counts.items() if cell not in lists}
    separator, joined = "", dict(lists)
    for candidate in SEPARATORS:
        parts = {cell: _parts(cell, candidate) for cell in plain}
        several = {cell: own for cell, own in parts.items() if len(own) > 1}
        if 10 * sum(max(map(len, own)) > LONGEST for own in parts.values()) > len(parts):
            continue  # these are texts
        if several and (_recur(several, parts, candidate) or (asked and candidate != ",")):
            separator, joined = candidate, lists | {cell: plain[cell] for cell in several}
            break
    if not joined:
        return None
    example = max(joined, key=lambda cell: (len(split_cell(cell, separator)) > 1, joined[cell]))
    return SeveralLabels(separator, bool(lists), sum(joined.values()), example)


def _recur(several: dict[str, list[str]], parts: dict[str, list[str]], separator: str) -> bool:
    """Whether the parts of the cells with several labels also occur in other cells."""
    cells = Counter(part for own in parts.values() for part in set(own))
    again = [sum(cells[part] > 1 for part in own) for own in several.values()]
    if separator == SEPARATOR:
        return any(again)
    return 2 * sum(found == len(own) for found, own in zip(again, several.values(), strict=True)) >= len(several)


def _parts(cell: str, separator: str) -> list[str]:
    if separator not in cell or (separator == "," and THOUSANDS.fullmatch(cell)):
        return [cell]
    parts = [part.strip() for part in cell.split(separator) if part.strip()]
    return parts if parts and max(map(len, parts)) <= LONGEST else [cell]


def read_list(cell: str) -> list[str] | None:
    """The labels in a list as JSON or Python writes it; None if the cell is not a list."""
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and all(isinstance(label, str | int | float | bool) for label in found):
            return [label if isinstance(label, str) else json.dumps(label) for label in found]
    return None


def split_cell(cell: str, separator: str) -> list[str]:
    """The labels of a cell: the items of a list, else the parts of the text."""
    found = read_list(cell) if cell.startswith("[") else None
    if found is None:
        found = _parts(cell, separator) if separator else [cell]
    return [label.strip() for label in found if label.strip()]


def join_labels(labels: Iterable[str], where: str) -> str:
    """Labels as one string. Raises DataError for a label that contains the separator."""
    own = sorted(set(labels))
    for label in own:
        if SEPARATOR in label:
            raise DataError(
                f"{where}: a label contains {SEPARATOR!r}, the separator between the labels of a row",
                got=repr(shorten(label)),
                do="Write the label without it.",
            )
    return SEPARATOR.join(own)


def join_decided(labels: Sequence[str], decided: np.ndarray) -> list[str]:
    """The joined labels of each row of an indicator matrix (n, K), for sorted labels."""
    return [SEPARATOR.join(labels[i] for i in np.flatnonzero(row).tolist()) for row in decided]


def labels_in(joined: str) -> list[str]:
    """The separate labels of a string from ``join_labels``."""
    return joined.split(SEPARATOR) if joined else []


def join_cells_of(cells: Sequence[str], several: SeveralLabels | None, where: str) -> list[str]:
    """The joined labels of each label cell, read as ``find_several`` found."""
    separator = several.separator if several else ""
    known = {cell: join_labels(split_cell(cell, separator), where) for cell in set(cells)}
    return [known[cell] for cell in cells]


def list_of_columns(names: Sequence[str], cells: Sequence[str], where: str) -> str:
    """The labels of a row with a column for each label, as a JSON list; empty if all cells are.

    Raises DataError for a cell that means neither yes nor no.
    """
    values = [cell.strip().casefold() for cell in cells]
    for name, value in zip(names, values, strict=True):
        if value not in ON and value not in OFF:
            raise DataError(
                f"{where}: column {name!r} does not say whether the row has that label",
                got=repr(shorten(value)),
                known=f"1 and 0, or {listed(sorted(ON - {'1', '1.0'}))} and {listed(sorted(OFF - {'', '0', '0.0'}))}",
                do="Name the columns of labels: --label A,B,C",
            )
    if not any(values):
        return ""
    return json.dumps([name for name, value in zip(names, values, strict=True) if value in ON], ensure_ascii=False)
