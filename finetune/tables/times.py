"""Parse a column of times: numbers, ISO 8601, or dates whose order of day and month is inferred from the column."""

import re
import warnings
from collections.abc import Sequence

import numpy as np

from finetune.errors import DataError, counted, listed
from finetune.tables.readers import LabelledTexts, place

NUMERIC_DATE = re.compile(r"\s*(\d{1,2})[./-](\d{1,2})[./-](\d{2}|\d{4})\b")


def parse_times(source: LabelledTexts, column: str) -> np.ndarray:
    """The time of each row (n,): seconds since 1970 in UTC, or the column's numbers.

    The order in a date such as 03/04/2025 is inferred from the column's other dates: if any first number is above 12,
    the day comes first. Raises DataError for a cell that is not a time, and for dates that stay ambiguous.
    """
    cells = source.times
    try:
        numbers = np.array([float(cell) for cell in cells])
    except ValueError:
        numbers = _dates(source, column)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        rows = listed([place(source.rows[i], source.files[i] if source.files else "") for i in wrong[:3]])
        raise DataError(
            f"column {column!r}: {counted(len(wrong), 'cell is not a time', 'cells are not times')}",
            got=f"{listed([repr(cells[i][:40]) for i in wrong[:3]])} ({rows})",
            known="numbers, 2025-04-03, 2025-04-03 18:20, 2025-04-03T18:20:00Z, 3 Apr 2025",
            do="Write them like one of these, or remove the rows.",
        )
    return numbers


def _dates(source: LabelledTexts, column: str) -> np.ndarray:
    """Seconds since 1970 (n,), NaN for a cell that is not a date."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas warns that it parses each cell separately, which is intended
        found = pd.to_datetime(
            pd.Series(source.times),
            format="mixed",
            errors="coerce",
            utc=True,
            dayfirst=_day_first(source.times, column),
        )
    seconds: np.ndarray = (found - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy()
    return seconds


def _day_first(cells: Sequence[str], column: str) -> bool:
    """Whether 03/04/2025 means 3 April in this column."""
    dates = [match for cell in cells if (match := NUMERIC_DATE.match(cell))]
    day_first = any(int(date[1]) > 12 for date in dates)
    month_first = any(int(date[2]) > 12 for date in dates)
    if dates and day_first == month_first and any(date[1] != date[2] for date in dates):
        doubt = (
            "day-first and month-first dates both occur"
            if day_first
            else "no date shows whether the day or the month comes first"
        )
        raise DataError(
            f"column {column!r}: {doubt}",
            got=listed([repr(date[0].strip()) for date in dates[:3]]),
            do="Write dates as year-month-day, for example 2025-04-03.",
        )
    return day_first
