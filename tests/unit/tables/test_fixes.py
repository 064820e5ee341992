"""Corrections of labels: read from tables of several kinds, applied to train and validation and never to the test."""

import pytest

from finetune.errors import DataError
from finetune.tables.fixes import Fix, apply_fixes, read_fixes
from finetune.tables.readers import LabelledTexts


def write(path, text: str, encoding: str = "utf-8"):
    path.write_text(text, encoding=encoding)
    return path


@pytest.fixture
def source() -> LabelledTexts:
    return LabelledTexts(list(range(7)), list("abcdefg"), ["ham", "spam", "ham", "spam", "ham", "=x", "ham"])


PARTS = {"train": [0, 1, 5, 6], "val": [2, 3], "test": [4]}


def test_rows_with_a_label_or_a_mark_are_read_and_others_left_out(tmp_path):
    table = write(
        tmp_path / "f.csv",
        "row,split,label,suggested,drop,text\n3,val,ham,spam,,t\n4.0,,,,x,t\n5,,,,no,t\n6,train,'=x,,0,t\n",
    )
    assert read_fixes(table) == [Fix(3, "val", "ham"), Fix(4, "", None), Fix(6, "train", "=x")]
    assert read_fixes(write(tmp_path / "s.csv", "Label;Row\nspam;7\nham;8\n")) == [
        Fix(7, "", "spam"),
        Fix(8, "", "ham"),
    ]
    assert read_fixes(write(tmp_path / "u.tsv", "row\tlabel\n7\tsp\u00e4m\n", "utf-16")) == [Fix(7, "", "sp\u00e4m")]


@pytest.mark.parametrize(
    "text, said",
    [
        ("text,label\na,ham\n", "not a table of fixes"),
        ("row,text\n1,ham\n", "not a table of fixes"),
        ("row,label\none,ham\n", "not a row of the data"),
        ("row,label\n-1,ham\n", "not a row of the data"),
        ("row,label,split\n1,ham,dev\n", "not a row of the data"),
        ("row,label\n1,ham\n1,spam\n", "two different fixes of row 1"),
        ("row,label\n1,\n", "no row has a label or a mark"),
    ],
)
def test_what_is_no_table_of_fixes_is_refused(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read_fixes(write(tmp_path / "f.csv", text))
    with pytest.raises(DataError, match="no such file"):
        read_fixes(tmp_path / "none.csv")


def test_fixes_change_train_and_validation_and_no_test_row(source):
    fixes = [Fix(0, "", "spam"), Fix(1, "train", "spam"), Fix(2, "", None), Fix(4, "", "spam")]
    parts, fixed = apply_fixes(fixes + [Fix(3, "", "ham")], source, PARTS, "f.csv")
    assert source.labels == ["spam", "spam", "ham", "ham", "ham", "=x", "ham"]
    assert parts == {"train": [0, 1, 5, 6], "val": [3], "test": [4]}
    assert (fixed.relabelled, fixed.dropped, fixed.as_before, fixed.test) == (2, 1, 1, [4])
    assert str(fixed) == (
        "2 rows relabelled, 1 row dropped; not applied to 1 test row (4), as test rows are never changed"
    )


@pytest.mark.parametrize(
    "fixes, said",
    [
        ([Fix(0, "", "eggs")], "labels that are not in the data; got eggs; known: =x, ham, spam"),
        ([Fix(9, "", "ham")], "row 9 is in no split"),
        ([Fix(0, "val", "spam")], "row 0 is in no split"),
        ([Fix(5, "", "ham")], "too few rows are left to train on; got none with the label =x"),
        ([Fix(2, "", None), Fix(3, "", None)], "got a split without rows"),
        ([Fix(0, "", "ham"), Fix(4, "", "spam")], "changes no training or validation row; got 1 row with the label"),
    ],
)
def test_fixes_that_do_not_fit_the_data_are_refused(source, fixes, said):

    with pytest.raises(DataError) as raised:
        apply_fixes(fixes, source, PARTS, "f.csv")
    assert said in str(raised.value)


def test_a_row_number_of_two_files_needs_its_split(source):
    source.rows = [0, 1, 0, 1, 4, 5, 6]
    with pytest.raises(DataError, match="row 0 is in several files"):
        apply_fixes([Fix(0, "", "spam")], source, PARTS, "f.csv")
    apply_fixes([Fix(0, "val", "spam")], source, PARTS, "f.csv")
    assert source.labels[:4] == ["ham", "spam", "spam", "spam"]
