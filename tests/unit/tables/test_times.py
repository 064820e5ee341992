"""Times as tables write them: numbers, ISO 8601, and dates whose order of day and month the column settles."""

from datetime import UTC, datetime

import pytest

from finetune.errors import DataError
from finetune.tables.readers import LabelledTexts
from finetune.tables.times import parse_times


def parsed(*cells: str) -> list[float]:
    return parse_times(LabelledTexts(rows=list(range(len(cells))), times=list(cells)), "sent").tolist()


def seconds(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()


def test_numbers_are_their_own_times():
    assert parsed("2", "10", "1e3", "-1") == [2, 10, 1000, -1]


def test_dates_of_several_kinds():
    assert parsed("2025-04-03", "2025-04-03T18:20:00Z", "3 Apr 2025", "2025-04-03 18:20:00+02:00") == [
        seconds(2025, 4, 3),
        seconds(2025, 4, 3, 18, 20),
        seconds(2025, 4, 3),
        seconds(2025, 4, 3, 16, 20),
    ]


@pytest.mark.parametrize(
    "cells, day_and_month", [(("03/04/2025", "13/04/2025"), (3, 4)), (("03/04/2025", "04/13/2025"), (4, 3))]
)
def test_another_date_of_the_column_settles_the_order(cells, day_and_month):
    day, month = day_and_month
    assert parsed(*cells)[0] == seconds(2025, month, day)


@pytest.mark.parametrize(
    "cells, said",
    [
        (("03/04/2025", "05/06/2025"), "no date shows whether the day or the month comes first"),
        (("13/04/2025", "04/13/2025"), "day-first and month-first dates both occur"),
        (("2025-04-03", "soon", ""), "2 cells are not times; got 'soon', '' (row 1, row 2)"),
        (("1", "nan"), "1 cell is not a time"),
    ],
)
def test_what_is_no_time_is_refused(cells, said):
    with pytest.raises(DataError) as refused:
        parsed(*cells)
    assert said in str(refused.value)
