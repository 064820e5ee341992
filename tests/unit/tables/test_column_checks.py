"""How a table is written, and columns beside text and label."""

import pytest

from finetune.tables.column_checks import check_columns, check_layout
from finetune.tables.detect import Detected, detect_format
from finetune.tables.readers import read_labelled
from finetune.tables.tables import TableFormat


@pytest.fixture
def columns(tmp_path):
    """The findings for a table of 60 rows: text, label and the columns of `more` (name -> row number -> cell)."""

    def check(text: str | None = None, **more):
        names = [name.replace("__", " ") for name in more]
        rows = [["text", "label", *names]] + [
            [f"word {'x' * i}", "ab"[i % 3 == 0], *(str(cell(i)) for cell in more.values())] for i in range(60)
        ]
        path = tmp_path / "my.csv"
        path.write_text("".join(",".join(row) + "\n" for row in rows))
        layout = detect_format(path).layout
        return check_columns(path, layout, read_labelled(path, text, "label", layout))

    return check


def test_a_column_that_predicts_the_label_is_reported(columns):
    found = columns(kind=lambda i: "xyz"[i % 3], other=lambda i: i % 4, id=lambda i: i, same=lambda i: 1)
    assert [(finding.check, finding.level) for finding in found] == [("leaking_column", "note")]
    assert found[0].what.startswith("column 'kind' predicts the label in 100.0%")
    joined = columns("text,kind", kind=lambda i: "xyz"[i % 3])
    assert [finding.level for finding in joined] == ["warning"]


def test_a_column_of_many_values_takes_no_memory(columns, monkeypatch):
    monkeypatch.setattr("finetune.tables.column_checks.MOST_VALUES", 2)
    assert columns(kind=lambda i: "xyz"[i % 3]) == []


def test_reserved_column_names_are_reported(columns):
    found = columns(predicted=lambda i: 1, p_a=lambda i: 1, row=lambda i: 1)
    assert [finding.check for finding in found] == ["reserved_columns"] and "predicted, p_a" in found[0].what


def test_unusual_layouts_are_reported():
    layout = TableFormat()
    assert check_layout(Detected(layout)) == []
    found = check_layout(Detected(layout, ("the fields are separated by tabs", "no quoting"), 2, (4, 9), 5))
    assert [finding.check for finding in found] == ["layout", "quoting", "swallowed_rows"]
    assert "loses 2 rows" in found[1].what and found[2].examples == ["line 4", "line 9"]
    assert "2 rows look like several" in found[2].what and "5 further lines" in found[2].what
