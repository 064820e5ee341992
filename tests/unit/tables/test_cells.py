"""Cells that a spreadsheet may open, and their way back."""

import csv
import io

import pytest

from finetune.tables.cells import FORMULA, escape_formula, unescape_formula


@pytest.mark.parametrize(
    "cell, safe",
    [
        ("=1+1", "'=1+1"),
        ("+49 170", "'+49 170"),
        ("-1", "-1"),
        ("+1.5e3", "+1.5e3"),
        ("@x", "'@x"),
        ("\t=1", "'\t=1"),
        ("-2+3", "'-2+3"),
        ("plain = text", "plain = text"),
        ("", ""),
        ("'tis", "'tis"),
        ("'=1+1", "''=1+1"),
    ],
)
def test_no_cell_becomes_a_formula(cell, safe):
    assert escape_formula(cell) == safe


@pytest.mark.parametrize("start", ["", "'", "''", "'''"])
@pytest.mark.parametrize("rest", ["x", "", "1", "'", *FORMULA, *(sign + "1" for sign in FORMULA), "=1+1", "-2+3"])
def test_every_text_comes_back(start, rest):
    text = start + rest
    assert unescape_formula(escape_formula(text)) == text
    assert escape_formula(text) == text or not escape_formula(text).startswith(FORMULA)


def test_a_table_of_defused_cells_is_read_back():
    texts = ["=1+1", "'=1+1", "''@x", "'tis", "-5", "'-5", 'plain, with "quotes"']
    file = io.StringIO(newline="")
    csv.writer(file).writerow(map(escape_formula, texts))
    file.seek(0)
    assert [unescape_formula(cell) for cell in next(csv.reader(file))] == texts
