"""Escape cells for safe use in spreadsheets, and undo it."""

import csv
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from _csv import Writer

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0")


def escape_formula(cell: str) -> str:
    """Prefix an apostrophe to text that a spreadsheet would run as a formula (CWE-1236); numbers stay as they are.

    Text that already has apostrophes before a formula gets one more, so `unescape_formula` restores every text.
    """
    if not cell.lstrip("'").startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return "'" + cell
    return cell


def unescape_formula(cell: str) -> str:
    """The original text of a cell that `escape_formula` returned."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(FORMULA) else cell


def table_writer(file: IO[str], delimiter: str = ",") -> "Writer":
    r"""A csv writer whose lines end in \n and whose cells are read back unchanged.

    Python 3.11's csv quotes a lone \r only if the line terminator contains \r, so it writes \r\n and we remove the \r.
    """

    class Lines:
        @staticmethod
        def write(line: str) -> None:
            file.write(line.removesuffix("\r\n") + "\n")

    return csv.writer(Lines, delimiter=delimiter, lineterminator="\r\n")
