"""Tables of every kind read row by row, against csv, pandas, pyarrow and datasets where they agree."""

import csv
import io
import json
import random

import pytest

from finetune.errors import DataError
from finetune.tables.readers import read_labelled
from finetune.tables.tables import TableFormat, as_cell, format_of, iterate_table

SMS = TableFormat("\t", header=False, quoting=False, columns=("label", "text"))


@pytest.fixture
def table(tmp_path):
    """Write a file's bytes and read it: the cells of each row."""

    def read(content: bytes | str, name: str = "my.csv", layout: TableFormat | None = None) -> list[list[str]]:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return [cells for _, cells in iterate_table(path, layout)]

    return read


@pytest.mark.parametrize(
    "content, rows",
    [
        ("a,b\n1,2\n", [["1", "2"]]),
        ("a,b\r\n1,2\r\n", [["1", "2"]]),
        ("a,b\r1,2\r", [["1", "2"]]),
        ("\ufeffa,b\n1,2", [["1", "2"]]),
        ("a,b\n\n1,2\n\n\n", [["1", "2"]]),
        ('a,b\n"1,\n""x""",2\n', [['1,\n"x"', "2"]]),
        ("a,b\nNA,None\nnull,nan\n", [["NA", "None"], ["null", "nan"]]),
        ("a,b\n 1 ,\n", [[" 1 ", ""]]),
        ("a,b\n1\x00,\x1b\n", [["1\x00", "\x1b"]]),
        ("a,b\n" + "x" * 500_000 + ",2\n", [["x" * 500_000, "2"]]),
        ("a,b\nx\u2028y\x85z,2\n", [["x\u2028y\x85z", "2"]]),
    ],
)
def test_cells_equal_the_content_of_the_file(table, content, rows):
    assert table(content) == rows


def test_any_table_that_csv_writes_is_read_back(table):
    draw = random.Random(0)
    for _ in range(200):
        width = draw.randint(2, 4)
        alphabet = "ab,\"\n\r\t ;'é\u2028=\\"
        rows = [["".join(draw.choices(alphabet, k=draw.randint(0, 6))) for _ in range(width)] for _ in range(5)]
        stream = io.StringIO(newline="")
        csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator=draw.choice(["\n", "\r\n"])).writerows(
            [[f"column {i}" for i in range(width)], *rows]
        )
        assert table(stream.getvalue()) == rows


def test_texts_are_what_pandas_reads_as_text(tmp_path):
    import pandas

    path = tmp_path / "my.csv"
    frame = pandas.DataFrame({"text": ["None", "1.0", " x ", 'say "hi"', "a\nb", "naïve"], "label": list("ababab")})
    frame.to_csv(path, index=False)
    found = read_labelled(path, None, None)
    assert found.texts == pandas.read_csv(path, dtype=str, keep_default_na=False)["text"].tolist()
    assert found.labels == list("ababab") and found.rows == list(range(6))


def test_without_quoting_a_row_is_a_line(table):
    content = 'ham\t"open\nspam\tclosed" and "half\nham\tx\x85y\u2028z\r\n\nham\t\n'
    assert table(content, "SMSSpamCollection", SMS) == [
        ["ham", '"open'],
        ["spam", 'closed" and "half'],
        ["ham", "x\x85y\u2028z"],
        ["ham", ""],
    ]


@pytest.mark.parametrize(
    "content, message",
    [
        ("a,b\n1,2\n1,2,3\n", r"my\.csv, line 3: 3 fields; got '1 \| 2 \| 3'; known: 2 columns: a, b"),
        ("a,b\n1,2\n\n1\n", r"my\.csv, line 4: 1 field;"),
        ('a,b\n"x\ny",2\n1,2,3\n', "line 4: 3 fields"),
        ('a,b\n1,2\n"x\ny,2\n1,2\n', "line 3: unexpected end of data.*Close every quote that is opened"),
        ('a,b\n"x"y,2\n', "line 2: .*quote"),
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        (
            b"a,b\n1,2\ncaf\xe9,2\n",
            r"not UTF-8; got byte 0xe9 in line 3; it is the only non-ASCII line.*Save the file as UTF-8",
        ),
        ("a,b\n1,2\n".encode("utf-16"), "not UTF-8; got byte 0xff in line 1"),
        (b"a,b\n" + b"1,2\n" * 50_000 + b"\xff", "0xff in line 50002"),
    ],
)
def test_a_table_with_a_fault_is_refused_with_the_line(table, content, message):
    with pytest.raises(DataError, match=message):
        table(content)


def test_a_cell_without_an_end_is_refused(table, monkeypatch):
    monkeypatch.setattr("finetune.tables.tables.FIELD_LIMIT", 1000)
    with pytest.raises(DataError, match="line 2: field larger than field limit"):
        table("a,b\n" + "x" * 1001 + ",2\n")


def test_missing_and_unsupported_files_are_refused(tmp_path):
    (tmp_path / "d.csv").mkdir()
    for name, message in (
        ("none.csv", "no such file"),
        ("d.csv", "a directory instead"),
        ("x.xls", "unknown file extension"),
    ):
        with pytest.raises(DataError, match=message):
            next(iterate_table(tmp_path / name))


def test_a_note_below_the_table_is_named_with_advice_that_fits(tmp_path):
    (tmp_path / "my.csv").write_text("text,label\na,b\nExported on Monday\n")
    with pytest.raises(
        DataError, match="line 3: 1 field; got 'Exported on Monday'.*delete it if it is a note or a total"
    ):
        list(iterate_table(tmp_path / "my.csv"))
    (tmp_path / "my.csv").write_text("text,label\na,b\nwell, yes,b\n")
    with pytest.raises(DataError, match="line 3: 3 fields;.*Quote the texts"):
        list(iterate_table(tmp_path / "my.csv"))


def test_the_ending_tells_the_delimiter(tmp_path):
    assert [format_of(tmp_path / name).delimiter for name in ("a.csv", "a.TSV", "a.b.tsv")] == [",", "\t", "\t"]


def test_a_table_is_read_as_it_comes(tmp_path):
    """The first rows of a file are there before its end is looked at: memory does not grow with it."""
    (tmp_path / "my.csv").write_text("a,b\n" + "1,2\n" * 100_000 + "1\n")
    rows = iterate_table(tmp_path / "my.csv")
    assert next(rows) == (["a", "b"], ["1", "2"])
    with pytest.raises(DataError, match="line 100002"):
        list(rows)


ROWS = [{"text": "naïve \u2028 x", "label": "1", "n": 3}, {"text": 'a, "b"\nc', "label": "0", "n": None}]
CELLS = [["naïve \u2028 x", "1", "3"], ['a, "b"\nc', "0", ""]]


def test_jsonl_and_json_give_the_same_rows(table):
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    assert table("\ufeff" + lines, "my.jsonl") == CELLS == table(lines + "\n\n", "my.ndjson")
    assert table(json.dumps(ROWS, indent=2), "my.json") == CELLS


def test_objects_may_have_other_keys(tmp_path):
    (tmp_path / "my.jsonl").write_text('{"a": "1"}\n{"b": "2", "a": "3"}\n{}\n')
    names = ["a", "b"]
    assert list(iterate_table(tmp_path / "my.jsonl")) == [(names, ["1", ""]), (names, ["3", "2"]), (names, ["", ""])]


@pytest.mark.parametrize(
    "value, cell",
    [
        (None, ""),
        (float("nan"), ""),
        (True, "true"),
        (False, "false"),
        (1, "1"),
        (1.5, "1.5"),
        ("", ""),
        ("NaN", "NaN"),
        (["a", "ü"], '["a", "ü"]'),
        ({"a": None}, '{"a": null}'),
        ("x\ud800y", "x?y"),
        ('"', '"'),
        (b"caf\xc3\xa9", "café"),
    ],
)
def test_values_become_text(value, cell):
    assert as_cell(value) == cell and isinstance(as_cell(value).encode(), bytes)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("my.jsonl", '{"text": "a"}\n{"text": \n', r"my\.jsonl, line 2: cannot be read as JSON"),
        ("my.jsonl", '{"text": "a"}\n["a"]\n', r"line 2: not a JSON object"),
        ("my.jsonl", '{"a": 1, "a": 2}', "duplicate key 'a'"),
        ("my.json", '{"text": ["a"]}', "must contain a list of objects; got dict"),
        ("my.json", "[1]", "object 1: not a JSON object"),
        ("my.json", "", "the file is empty"),
        ("my.json", "[" * 100_000, "cannot be read as JSON"),
        ("my.jsonl", b'{"text": "caf\xe9"}\n', "not UTF-8; got byte 0xe9 in line 1.*cp1252.*café"),
        ("my.parquet", "PAR1", "cannot be read as Parquet"),
        ("my.parquet", b"", "cannot be read as Parquet"),
    ],
)
def test_other_kinds_with_a_fault_are_refused_with_the_place(table, name, content, message):
    with pytest.raises(DataError, match=message):
        table(content, name)


def test_parquet_is_what_pandas_wrote(tmp_path):
    import pandas

    frame = pandas.DataFrame(
        {
            "text": ["a", None, "c\nd"] * 1000,
            "label": pandas.Categorical(["x", "y", "x"] * 1000),
            "yes": [True, False, None] * 1000,
            "score": [1.0, float("nan"), 2.5] * 1000,
        }
    )
    frame.to_parquet(tmp_path / "my.parquet")
    rows = list(iterate_table(tmp_path / "my.parquet"))
    assert len(rows) == 3000 and rows[0] == (["text", "label", "yes", "score"], ["a", "x", "true", "1.0"])
    assert [cells for _, cells in rows[1:3]] == [["", "y", "false", ""], ["c\nd", "x", "", "2.5"]]


def test_saved_data_sets_name_their_labels_and_splits(tmp_path):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam"])}
    )
    part = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    part.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": part, "test": part.select([0])}).save_to_disk(tmp_path / "two")
    assert [cells for _, cells in iterate_table(tmp_path / "one")] == [["a", "spam"], ["b", "ham"]]
    found = read_labelled(tmp_path / "two", None, None)
    assert found.sides == ["train", "train", "test"] and found.labels == ["spam", "ham", "spam"]
    datasets.DatasetDict({"train": part, "test": part.rename_column("text", "t")}).save_to_disk(tmp_path / "odd")
    with pytest.raises(DataError, match="the splits have different columns"):
        list(iterate_table(tmp_path / "odd"))
    (tmp_path / "two" / "train" / "state.json").write_text("{")
    with pytest.raises(DataError, match="not a readable data set"):
        list(iterate_table(tmp_path / "two"))


def test_errors_about_empty_tables_are_complete(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": [], "label": []}).save_to_disk(tmp_path / "saved")
    (tmp_path / "empty.csv").write_text("\n\n")
    (tmp_path / "header.csv").write_text("text,label\n")
    (tmp_path / "none.json").write_text("[]")
    for name, what in (
        ("saved", "a split of the saved data set is empty; got a split without rows"),
        ("empty.csv", "the file is empty; got 2 bytes"),
        ("none.json", "no rows; got none"),
        ("header.csv", "a header and no rows; got nothing below the header"),
    ):
        with pytest.raises(DataError, match=f"{name}: {what}; known: .*one row per text. Is it the right file"):
            read_labelled(tmp_path / name, None, None)


def test_a_cell_that_is_too_long_is_not_called_a_quote(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.tables.tables.FIELD_LIMIT", 100)
    path = tmp_path / "my.csv"
    for quote, asked in (("", False), ('"', True)):
        path.write_text(f"text,label\na,b\n{quote}{'x' * 101}{quote},b\n")
        with pytest.raises(DataError, match="too long; got line 3: .*at most 100 characters.*Split") as caught:
            list(iterate_table(path))
        assert ("quote that is never closed" in str(caught.value)) == asked
