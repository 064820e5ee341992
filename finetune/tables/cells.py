"""Escape cells for safe use in spreadsheets, and undo it."""

import csv
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from _csv import Writer

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0")


def escape_formula(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula (CWE-1236): numbers stay, other text gets an apostrophe.

    So does text that has one already, or more: `undefuse` then gives back every text.
    """
    if not cell.lstrip("'").startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return "'" + cell
    return cell


def unescape_formula(cell: str) -> str:
    """The text that `defuse` made this cell of."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(FORMULA) else cell


def table_writer(file: IO[str], delimiter: str = ",") -> "Writer":
    r"""A csv writer of lines that end in \n and are read back cell by cell.

    Python 3.11's csv quotes a lone \r only where \r stands in the line's end: it is given \r\n, and we cut it.
    """

    class Lines:
        @staticmethod
        def write(line: str) -> None:
            file.write(line.removesuffix("\r\n") + "\n")

    return csv.writer(Lines, delimiter=delimiter, lineterminator="\r\n")
