"""How a file is written, found in the file: encoding, delimiter, quotes, header."""

import csv
import random

import pytest

from finetune.errors import DataError, counted
from finetune.tables.detect import detect_format
from finetune.tables.readers import HEADER_NAMES, read_labelled
from finetune.tables.tables import iterate_table, look_at_bytes


@pytest.fixture
def detect(tmp_path):
    """What is detected in a file of this content, and the rows that are then read."""

    def detect(content: bytes | str, name: str = "my.csv", encoding: str | None = None):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found = detect_format(path, encoding, HEADER_NAMES)
        return found, [cells for _, cells in iterate_table(path, found.layout)]

    return detect


PLAIN = "text,label\nhi,ham\nho,spam\n"


@pytest.mark.parametrize(
    "encoding, said",
    [
        ("utf-8-sig", "byte order mark"),
        ("utf-16", "byte order mark"),
        ("utf-32", "byte order mark"),
        ("utf-16-le", "every second byte"),
        ("utf-16-be", "every second byte"),
    ],
)
def test_the_first_bytes_show_the_encoding(detect, encoding, said):
    found, rows = detect(PLAIN.replace("hi", "hí").encode(encoding))
    assert rows == [["hí", "ham"], ["ho", "spam"]] and said in found.notes[0]


def test_the_usual_needs_no_word(detect):
    assert detect(PLAIN) == (detect(PLAIN)[0], [["hi", "ham"], ["ho", "spam"]]) and detect(PLAIN)[0].notes == ()
    assert detect("text,label\na\0b\0,x\nc,y\n")[1][0] == ["a\0b\0", "x"]  # a few NULs are no UTF-16


def test_another_encoding_is_taken_only_when_asked_for(detect):
    latin = "text,label\ncafé,ham\nb,spam\n".encode("latin-1")
    with pytest.raises(DataError, match="not UTF-8.*--encoding cp1252 .*encoding=cp1252.*guess, .*right: 'café,ham'"):
        detect(latin)
    assert detect(latin, encoding="latin-1")[1][0] == ["café", "ham"]
    with pytest.raises(DataError, match="encoding=latin-1"):  # a byte that Windows-1252 has not
        detect(latin + b"\x81,ham\n")
    assert detect("text,label\na,b\n", encoding="")[0].layout.encoding == "utf-8-sig"  # a variable that is not set
    for odd in ("hex", "rot13", "undefined"):
        with pytest.raises(DataError, match=f"unknown encoding '{odd}'"):
            detect(latin, encoding=odd)
    with pytest.raises(DataError, match="unknown encoding 'utf9'"):
        detect(latin, encoding="utf9")


def test_another_encoding_is_for_files_that_are_not_utf8(detect):
    plain = PLAIN.replace("hi", "café")
    for own in ("utf-8", "utf-8-sig", "utf-16"):
        found, rows = detect(plain.encode(own), encoding="cp1252")
        assert rows[0] == ["café", "ham"] and any("valid UTF-8" in note or "mark" in note for note in found.notes)
    assert "as requested" in detect(plain.encode("cp1252"), encoding="cp1252")[0].notes[0]
    assert detect("text,label\nこ,ham\nho,spam\n".encode("iso2022_jp"), encoding="iso2022_jp")[1][0] == ["こ", "ham"]


def test_a_partly_utf8_file_is_distinguished_from_another_encoding(tmp_path):
    path = tmp_path / "my.csv"
    path.write_bytes("text\nno\nthé\ncafé\n".encode() + "\xa0\nmaté\n".encode("latin-1"))
    found = look_at_bytes(path)
    assert (found.line, found.foreign, found.valid, found.guess) == (5, 4, 2, "cp1252") and "garble" in found.fix()
    path.write_bytes("\xa0\n".encode("latin-1"))
    assert look_at_bytes(path).sample == "''"


@pytest.mark.parametrize("name", ["my.csv", "my.tsv", "my.txt", "my"])
@pytest.mark.parametrize("delimiter", ",;\t|")
def test_the_delimiter_is_seen(detect, name, delimiter):
    content = "".join(delimiter.join(row) + "\n" for row in (["text", "label"], ["hi there", "ham"], ["ho", "spam"]))
    found, rows = detect(content, name)
    assert found.layout.delimiter == delimiter and rows == [["hi there", "ham"], ["ho", "spam"]]
    assert bool(found.notes) == (delimiter != {"my.tsv": "\t"}.get(name, ","))


def test_a_delimiter_that_parts_the_header_is_kept(detect):
    assert detect("text,label;x\na;b,c\n")[0].layout.delimiter == ","
    assert detect('text\n"only, one; column"\n')[0].layout.delimiter == ","


SWALLOWED = """ham\thello there
spam\t"win now
ham\tI said "no"
spam\tcall me" she said
ham\tgood night
ham\tbye now
spam\tlast
"""


def test_rows_that_a_quote_would_swallow_are_found(detect):
    """As in the SMS Spam Collection: each line is a row, and csv's defaults lose some."""
    found, rows = detect(SWALLOWED, "SMS")
    assert not found.layout.quoting and not found.layout.header and len(rows) == 7
    lost = 7 - len(list(csv.reader(SWALLOWED.splitlines(keepends=True), delimiter="\t")))
    assert found.lost_by_quoting == lost > 0
    assert any(f"default quoting would have lost {counted(lost, 'row')}" in note for note in found.notes)


def test_a_quote_that_closes_at_a_line_end_swallows_too(detect):
    rows = [("ham", "one"), ("spam", '"win'), ("ham", "two"), ("ham", 'three"'), ("spam", "four"), ("ham", "five")]
    content = "".join("\t".join(row) + "\n" for row in rows)
    assert len(list(csv.reader(content.splitlines(keepends=True), delimiter="\t"))) == 4
    found, read = detect(content, "my.tsv")
    assert found.lost_by_quoting == 2 and read == [list(row) for row in rows]


def test_what_csv_writes_is_read_with_quotes(tmp_path):
    draw = random.Random(0)
    for trial in range(200):
        path = tmp_path / f"{trial}.csv"
        rows = [
            ["".join(draw.choices('ab,"\n é', k=draw.randint(1, 6))), draw.choice(["ham", "spam"])] for _ in range(20)
        ]
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text", "label"], *rows])
        found = detect_format(path, header_names=HEADER_NAMES)
        assert found.layout.quoting and [cells for _, cells in iterate_table(path, found.layout)] == rows


def test_a_row_that_swallows_others_in_a_quoted_file_is_named(detect):
    content = 'text,label\n"a, b",ham\nc,spam\n"d,ham\ne,spam\nf",ham\ng,spam\n'
    found, rows = detect(content)
    assert found.layout.quoting and len(rows) == 4
    assert found.swallowed_lines == (4,) and found.swallowed_rows == 2


def test_a_missing_header_is_seen(detect):
    found, rows = detect("ham,hello\nspam,win\nham,ho\nham,hu\n")
    assert found.layout.columns == ("column_1", "column_2") and len(rows) == 4 and "no header" in found.notes[0]
    for content in ("label,text\nlabel,a\nlabel,b\nx,c\n", "kind,remark\nham,hello\nspam,win\n"):
        assert detect(content)[0].layout.header


@pytest.mark.parametrize("first, delimiter", [("sep=;", ";"), ('"sep=;"', ";"), ("SEP=|", "|"), ("sep=\t", "\t")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_first_line_that_names_the_delimiter_is_none_of_the_table(detect, first, delimiter, end):
    rows = [["text", "label"], ["hi, you", "ham"], ["ho", "spam"]]
    lines = [first, *(delimiter.join(row) for row in rows)]
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        found, read = detect((end.join(lines) + end).encode(encoding))
        assert read == rows[1:] and "as line 1 says" in " ".join(found.notes)
    with pytest.raises(DataError, match="line 5: 1 field;"):
        detect(end.join([*lines, "alone"]))
    plain = delimiter.join(["a", '"b" c'])
    assert detect(end.join([*lines, plain, plain]))[1][2:] == [["a", '"b" c']] * 2  # quotes that part nothing


def test_a_title_above_the_header_is_refused_with_the_line(detect):
    for content, line in (("My great table,,\ntext,label,id\na,x,1\n", 2), ("My table\n2024,\nText,Label\na,x\n", 3)):
        with pytest.raises(DataError, match=f"line {line} looks like the header, not the first line; got '.*Delete"):
            detect(content)
    for content in (
        "a,b\ntext,x\nc,y\n",
        "text,label\nMessage,class\nc,y\n",
        "kind\ntext\nlabel\n",
        "title,topic\nClass,text\nc,y\n",
        ",utterance\n0,text\n1,b\n",
    ):
        assert len(detect(content)[1]) == 2  # such a word may stand in a row of data
    assert len(detect("ham,hello\nclass,text\nham,ho\nham,hu\n")[1]) == 4  # no header at all


@pytest.mark.parametrize("name", ["my.csv", "my.json", "my.txt"])
@pytest.mark.parametrize(
    "magic, what, fix",
    [
        (b"PK\x03\x04", "Excel workbook", "rename it to end in .xlsx"),
        (b"\xd0\xcf\x11\xe0", "old Excel", "save it as CSV"),
        (b"\x1f\x8b", "gzip", "Rename it to end in .gz"),
    ],
)
def test_binary_files_are_recognised_by_their_first_bytes(detect, name, magic, what, fix):
    with pytest.raises(DataError, match=f"{name}: not a text file; got .*{what}.*known: .csv.*{fix}"):
        detect(magic + b"\x08\0\n,", name)


def test_json_lines_may_be_called_json(detect):
    assert detect('{"a": "1"}\n{"a": "2"}\n', "my.json")[1] == [["1"], ["2"]]
    assert detect('[{"a": "1"}]', "my.json")[1] == [["1"]]


def test_a_file_without_header_or_ending_is_read(tmp_path):
    (tmp_path / "SMS").write_text("ham\tcome home now\nspam\twin a prize\n" * 4)
    found = read_labelled(tmp_path / "SMS", None, None)
    assert (found.text_column, found.label_column, len(found.rows)) == ("column_2", "column_1", 8)
    assert len(found.notes) == 4


def test_changed_files_are_looked_at_again(detect):
    assert detect(PLAIN)[0].layout.delimiter == ","
    assert detect(PLAIN.replace(",", ";") + "more;ham\n")[0].layout.delimiter == ";"
