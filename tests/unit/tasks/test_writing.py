"""What the tasks with written answers share: rows that are chosen, gathered and written as a table."""

import csv
from dataclasses import dataclass
from operator import attrgetter

import pytest

from finetune.errors import DataError
from finetune.evaluation.leakage import OverlapCounts
from finetune.evaluation.written import WrittenTexts
from finetune.recipe import Split
from finetune.records import PreparedRow, Record
from finetune.tasks.writing import (
    divide,
    gather_test_rows,
    overlap_notes,
    result_rows,
    spread_rows,
    tokenize_splits,
    write_rows,
)


@dataclass(frozen=True)
class Line(Record):
    row: int
    asked: str
    wanted: str
    after: str
    before: str
    nearest: str


@dataclass(frozen=True)
class Asked(PreparedRow):
    asked: str
    wanted: str


def test_rows_are_chosen_at_even_distances():
    assert spread_rows(range(100), 4) == [12, 37, 62, 87]
    assert spread_rows([5, 6, 7]) == [5, 6, 7] and len(set(spread_rows(range(1000)))) == 10


def test_equal_texts_stay_on_one_side_unless_the_order_alone_decides():
    texts = [own for word in map(chr, range(97, 123)) for own in (f"{word} 1", f"{word.upper()}  1", f"{word} 2")]
    parts = divide(texts, Split(), 0.2, 0.2)
    side = {row: name for name, rows in parts.items() for row in rows}
    assert len(side) == 78 and all(side[row] == side[row + 1] for row in range(0, 78, 3))
    assert any(side[row] != side[row + 2] for row in range(0, 78, 3))  # digits are content
    assert divide(texts[:10], Split(protocol="ordered"), 0.1, 0.2) == {
        "train": list(range(7)),
        "test": [7, 8],
        "val": [9],
    }


def test_a_split_without_rows_is_refused():
    with pytest.raises(DataError, match="too few pairs: none for the val split; got 2 different sources"):
        tokenize_splits({"train": [1], "val": [], "test": [1]}, list, 9, "pair", "2 different sources")


def test_overlap_is_said_where_there_is_some():
    counts = {"val_in_train": OverlapCounts(0, 0, 9), "test_in_val": OverlapCounts(1, 2, 30)}
    assert overlap_notes(counts, "source") == ["2 of 30 test sources also occur in val too, after normalising"]


def test_test_rows_that_fit_are_gathered_with_what_they_are_held_against():
    records = {
        "train": [Asked(0, "one apple", "1"), Asked(1, "two pears", "2")],
        "val": [Asked(2, "Three", "3")],
        "test": [Asked(3, "two  pears please", "4"), Asked(4, "too long", "5"), Asked(5, "three", "6")],
    }
    test = gather_test_rows(records, [3, 5], attrgetter("asked"), attrgetter("wanted"))
    assert test.asked == ["two  pears please", "three"] and test.wanted == ["4", "6"]
    assert test.nearest[0] == "2" and test.clean.tolist() == [True, False]  # three stands in val, in another case
    rows = result_rows(Line, test, {"after": WrittenTexts(["a", "b"]), "before": WrittenTexts(["c", "d"])})
    assert rows == [Line(3, "two  pears please", "4", "a", "c", "2"), Line(5, "three", "6", "b", "d", test.nearest[1])]


def test_a_table_has_a_column_for_each_field_and_no_formula(tmp_path):
    write_rows(tmp_path / "rows.csv", [Line(1, "=1+1", "-3", "a\nb", 'say "é"', "")])
    with open(tmp_path / "rows.csv", encoding="utf-8", newline="") as file:
        head, line = csv.reader(file)
    assert head == ["row", "asked", "wanted", "after", "before", "nearest"]
    assert line == ["1", "'=1+1", "-3", "a\nb", 'say "é"', ""]
