"""Tables read row by row, against Python's own csv module and pandas where they agree with RFC 4180."""

import csv
import io
import random

import pytest

from finetune.datasets.readers import (
    LABEL_NAMES,
    TEXT_NAMES,
    TableFormat,
    find_column,
    format_of,
    iterate_table,
    listed,
    read_labelled,
)
from finetune.errors import DataError

SMS = TableFormat("\t", header=False, quoting=False, columns=("label", "text"))


@pytest.fixture
def table(tmp_path):
    """Write a file's bytes and read it: the cells of each row."""
    def read(content: bytes | str, name: str = "my.csv", layout: TableFormat | None = None) -> list[list[str]]:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return [cells for _, cells in iterate_table(path, layout)]
    return read


@pytest.mark.parametrize("content, rows", [
    ("a,b\n1,2\n", [["1", "2"]]), ("a,b\r\n1,2\r\n", [["1", "2"]]), ("a,b\r1,2\r", [["1", "2"]]),
    ("\ufeffa,b\n1,2", [["1", "2"]]), ("a,b\n\n1,2\n\n\n", [["1", "2"]]), ('a,b\n"1,\n""x""",2\n', [['1,\n"x"', "2"]]),
    ("a,b\nNA,None\nnull,nan\n", [["NA", "None"], ["null", "nan"]]), ("a,b\n 1 ,\n", [[" 1 ", ""]]),
    ("a,b\n1\x00,\x1b\n", [["1\x00", "\x1b"]]), ("a,b\n" + "x" * 500_000 + ",2\n", [["x" * 500_000, "2"]]),
    ("a,b\nx\u2028y\x85z,2\n", [["x\u2028y\x85z", "2"]])])
def test_cells_are_what_the_file_holds(table, content, rows):
    assert table(content) == rows


def test_any_table_that_csv_writes_is_read_back(table):
    draw = random.Random(0)
    for _ in range(200):
        width = draw.randint(2, 4)
        alphabet = 'ab,"\n\r\t ;\'é\u2028=\\'
        rows = [["".join(draw.choices(alphabet, k=draw.randint(0, 6))) for _ in range(width)] for _ in range(5)]
        stream = io.StringIO(newline="")
        csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator=draw.choice(["\n", "\r\n"])).writerows(
            [[f"column {i}" for i in range(width)], *rows])
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
        ["ham", '"open'], ["spam", 'closed" and "half'], ["ham", "x\x85y\u2028z"], ["ham", ""]]


@pytest.mark.parametrize("content, message", [
    ("a,b\n1,2\n1,2,3\n", r"my\.csv, line 3: 3 fields; got '1 \| 2 \| 3'; known: 2 columns: a, b"),
    ("a,b\n1,2\n\n1\n", r"my\.csv, line 4: 1 fields"), ('a,b\n"x\ny",2\n1,2,3\n', "line 4: 3 fields"),
    ('a,b\n1,2\n"x\ny,2\n1,2\n', "line 3: unexpected end of data.*quote that is opened must be closed"),
    ('a,b\n"x"y,2\n', "line 2: .*quote"), ("", "the file is empty"), ("\n\n", "the file is empty"),
    (b"a,b\n1,2\ncaf\xe9,2\n", r"not UTF-8; got byte 0xe9 in line 3\. Save the file as UTF-8"),
    ("a,b\n1,2\n".encode("utf-16"), "not UTF-8; got byte 0xff in line 1"),
    (b"a,b\n" + b"1,2\n" * 50_000 + b"\xff", "0xff in line 50002")])
def test_a_table_with_a_fault_is_refused_with_the_line(table, content, message):
    with pytest.raises(DataError, match=message):
        table(content)


def test_a_cell_without_an_end_is_refused(table, monkeypatch):
    monkeypatch.setattr("finetune.datasets.readers.FIELD_LIMIT", 1000)
    with pytest.raises(DataError, match="line 2: field larger than field limit"):
        table("a,b\n" + "x" * 1001 + ",2\n")


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "d.csv").mkdir()
    for name, message in (("none.csv", "no such file"), ("d.csv", "a directory where"), ("x.xlsx", "unknown kind")):
        with pytest.raises(DataError, match=message):
            next(iterate_table(tmp_path / name))


def test_the_ending_tells_the_delimiter(tmp_path):
    assert [format_of(tmp_path / name).delimiter for name in ("a.csv", "a.TSV", "a.b.tsv")] == [",", "\t", "\t"]


@pytest.mark.parametrize("names, wanted, index", [
    (["id", "text"], None, 1), (["id", " Message "], None, 1), (["content", "text"], None, 1), (["v1", "v2"], None, 1),
    (["text", "body"], "body", 1), (["", "", "text"], None, 2)])
def test_a_column_is_found(tmp_path, names, wanted, index):
    assert find_column(names, wanted, TEXT_NAMES, "text", tmp_path) == index


@pytest.mark.parametrize("names, wanted, message", [
    (["id", "texts"], "text", "no column 'text'; got id, texts; did you mean 'texts'"),
    (["id", "x"], None, "no text column that can be told by its name; got id, x; known: text, message"),
    (["text", "x", "text"], None, "2 columns are called 'text'"), (["x", "x"], "x", "2 columns are called 'x'"),
    (["id", "Text"], "text", "no column 'text'")])
def test_a_column_that_is_not_there_or_there_twice_is_refused(tmp_path, names, wanted, message):
    with pytest.raises(DataError, match=message):
        find_column(names, wanted, TEXT_NAMES, "text", tmp_path)
    assert set(TEXT_NAMES).isdisjoint(LABEL_NAMES)


@pytest.mark.parametrize("header, mend", [
    ("text;label", "';': save the file with commas"), ("text|label", r"'\|': save the file with commas"),
    ("text\tlabel", r"'\\t': name the file \.tsv")])
def test_another_delimiter_is_named(tmp_path, header, mend):
    path = tmp_path / "my.csv"
    for row in (header, header.replace("text", "a, b")):  # rows of one field, and of two
        path.write_text(f"{header}\n{row}\n")
        with pytest.raises(DataError, match=f"The delimiter looks like {mend}"):
            read_labelled(path, None, None)
    with pytest.raises(DataError, match=f"no column 'text'.*The delimiter looks like {mend}"):
        find_column([header], "text", TEXT_NAMES, "text", path)
    assert find_column([header], header, TEXT_NAMES, "text", path) == 0  # who asks for it gets it


def test_a_header_of_several_cells_has_its_delimiter(tmp_path):
    with pytest.raises(DataError, match="no text column") as caught:
        find_column(["a;b", "c"], None, TEXT_NAMES, "text", tmp_path)
    assert "delimiter" not in str(caught.value)


def test_long_lists_are_cut():
    names = [f"n{i}" for i in range(20)]
    assert listed(names) == "n0, n1, n2, n3, n4, n5, n6, n7 and 12 more"
    assert listed(names[:8]) == "n0, n1, n2, n3, n4, n5, n6, n7" and listed([]) == ""


def test_rows_without_text_or_label_are_counted_and_the_others_keep_their_numbers(tmp_path):
    (tmp_path / "my.csv").write_text("label,text\nham,a\nspam,  \n,b\nspam,c\n\n ham , d \n")
    found = read_labelled(tmp_path / "my.csv", None, None)
    assert found.rows == [0, 3, 4] and found.texts == ["a", "c", " d "] and found.labels == ["ham", "spam", "ham"]
    assert found.dropped == {"empty text": 1, "empty label": 1}
    assert (found.text_column, found.label_column) == ("text", "label")


def test_labels_stay_text(tmp_path):
    (tmp_path / "my.csv").write_text("label,text\n01,a\n1,b\n1.0,c\nNone,d\n")
    assert read_labelled(tmp_path / "my.csv", None, None).labels == ["01", "1", "1.0", "None"]


@pytest.mark.parametrize("rows", ["ham,a\n", "ham,a\nham,b\n", ",a\n,b\n"])
def test_one_label_is_too_few(tmp_path, rows):
    (tmp_path / "my.csv").write_text("label,text\n" + rows)
    with pytest.raises(DataError, match="needs two labels; got (ham|none).*--label NAME"):
        read_labelled(tmp_path / "my.csv", None, None)


def test_a_table_is_read_as_it_comes(tmp_path):
    """The first rows of a file are there before its end is looked at: memory does not grow with it."""
    (tmp_path / "my.csv").write_text("a,b\n" + "1,2\n" * 100_000 + "1\n")
    rows = iterate_table(tmp_path / "my.csv")
    assert next(rows) == (["a", "b"], ["1", "2"])
    with pytest.raises(DataError, match="line 100002"):
        list(rows)
