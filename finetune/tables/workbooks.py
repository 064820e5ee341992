"""Stream the rows of an Excel workbook (.xlsx), with values instead of formulas."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from finetune.errors import DataError
from finetune.tables.unpacking import check_archive


def sheet_rows(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """(row number from 1, cells) of each non-blank row of the first sheet with any, without trailing empty cells.

    Raises DataError if the file is not a workbook.
    """
    with _opened(path) as book:
        for sheet in book.worksheets:
            empty = True
            for number, cells in _rows(sheet):
                empty = False
                yield number, cells
            if not empty:
                return


def sheets(path: Path) -> list[str]:
    """The names of the sheets that are not empty, in order."""
    with _opened(path) as book:
        return [sheet.title for sheet in book.worksheets if next(_rows(sheet), None)]


def _rows(sheet: Any) -> Iterator[tuple[int, list[Any]]]:
    sheet.reset_dimensions()  # the sheet's size in the file may be wrong
    for number, values in enumerate(sheet.iter_rows(values_only=True), 1):
        cells = list(values)
        while cells and (cells[-1] is None or cells[-1] == ""):
            cells.pop()
        if cells:
            yield number, cells


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A workbook, closed at the end. Raises DataError if the file is not one."""
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings on styles and extensions that are not preserved
            check_archive(path)
            book = load_workbook(path, read_only=True, data_only=True)
    except (BadZipFile, InvalidFileException, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read as an Excel workbook",
            got=str(error).split("\n")[0][:200],
            do="Save it again as .xlsx, without a password, or as CSV in UTF-8.",
        ) from error
    try:
        yield book
    finally:
        book.close()
