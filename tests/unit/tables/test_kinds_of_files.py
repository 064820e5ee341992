"""Packed files, workbooks, folders of texts, wrapped JSON, nested fields and standard input hold the same rows."""

import gzip
import io
import json
import sys
from pathlib import Path

import pandas
import pytest

from finetune.errors import DataError
from finetune.tables.detect import detect_format
from finetune.tables.readers import HEADER_NAMES, read_labelled
from finetune.tables.sources import locate_data
from finetune.tables.standard_input import table_name
from finetune.tables.tables import iterate_table

ROWS = [(f"text número {i}", ("ham", "spam")[i % 2]) for i in range(12)]
CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)
OBJECTS = [{"text": text, "label": label} for text, label in ROWS]


def pairs(name: str | Path, text: str | None = None, label: str | None = None) -> list[tuple[str, str]]:
    found = locate_data(str(name))
    read = read_labelled(found.path, text, label, found.layout)
    return list(zip(read.texts, read.labels, strict=True))


@pytest.mark.parametrize("name", ["my.csv.gz", "my.TSV.GZ", "my.jsonl.gz", "my.json.gz", "my.txt.gz"])
def test_a_packed_file_is_read_as_the_file_in_it(tmp_path, name):
    content = CSV.replace(",", "\t") if "TSV" in name else CSV
    content = json.dumps(OBJECTS) if ".json." in name else content
    content = "\n".join(map(json.dumps, OBJECTS)) if "jsonl" in name else content
    (tmp_path / name).write_bytes(gzip.compress(content.encode()))
    assert pairs(tmp_path / name) == ROWS


def test_a_packed_file_in_another_encoding_is_detected(tmp_path):
    (tmp_path / "my.csv.gz").write_bytes(gzip.compress(CSV.encode("utf-16")))
    assert pairs(tmp_path / "my.csv.gz") == ROWS


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-12], lambda content: b"text,label\n", lambda content: b""]
)
def test_a_damaged_archive_is_an_error(tmp_path, damage):
    (tmp_path / "my.csv.gz").write_bytes(damage(gzip.compress(CSV.encode() * 50)))
    with pytest.raises(DataError, match=r"my\.csv\.gz"):
        pairs(tmp_path / "my.csv.gz")


def test_an_archive_of_a_binary_file_is_unpacked_by_the_user(tmp_path):
    (tmp_path / "my.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    with pytest.raises(DataError, match="unknown file extension"):
        pairs(tmp_path / "my.parquet.gz")


def workbook(path: Path, *sheets: list[list]) -> Path:
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets, 1):
        sheet = book.create_sheet(f"Sheet {number}")
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_workbook_is_read_as_pandas_reads_it(tmp_path):
    rows = [
        ["text", "label", "n", "when"],
        *([text, label, i / 2, pandas.Timestamp(2025, 1, 1 + i)] for i, (text, label) in enumerate(ROWS)),
    ]
    path = workbook(tmp_path / "my.xlsx", rows)
    assert pairs(path) == ROWS
    frame = pandas.read_excel(path, dtype=str)
    cells = [cells for _, cells in iterate_table(path)]
    assert [own[:2] for own in cells] == frame[["text", "label"]].to_numpy().tolist()
    assert [float(own[2]) for own in cells] == [i / 2 for i in range(12)] and cells[3][3] == "2025-01-04 00:00:00"


def test_a_workbook_of_several_sheets_blank_rows_and_no_header(tmp_path):
    path = workbook(tmp_path / "my.xlsx", [], [[], *([text, label] for text, label in ROWS), [None, None]], [["x"]])
    found = detect_format(path, header_names=HEADER_NAMES)
    assert found.notes[0] == "only the sheet 'Sheet 2' is read; other sheets with cells: Sheet 3"
    assert not found.layout.header and [tuple(cells) for _, cells in iterate_table(path, found.layout)] == ROWS


@pytest.mark.parametrize(
    "rows, message",
    [
        ([["Sales 2025"], [], ["text", "label"], ["a", "b"]], "line 3 looks like the header"),
        ([["text", "label"], ["a", "b", "c"]], "row 2: 3 cells.*2 columns"),
        ([["text", "label"]], "no rows|nothing below"),
        ([], "the file is empty"),
    ],
)
def test_a_workbook_that_is_no_table_is_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        pairs(workbook(tmp_path / "my.xlsx", rows, []))


def test_what_is_called_a_workbook_and_is_none_is_refused(tmp_path):
    (tmp_path / "my.xlsx").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match="cannot be read as an Excel workbook"):
        pairs(tmp_path / "my.xlsx")


def folder(path: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_folders_are_the_labels_of_their_texts(tmp_path):
    files = {f"{label}/{i:02}.txt": text for i, (text, label) in enumerate(ROWS)}
    path = folder(tmp_path / "mails", files | {"README.md": "no text", ".git/a.txt": "x", "ham/.DS_Store": b"\0"})
    assert sorted(pairs(path)) == sorted(ROWS)
    assert next(iterate_table(path)) == (["text", "label", "file"], ["text número 0", "ham", "ham/00.txt"])
    assert detect_format(path).notes == ("1 file outside the labels' folders is not read",)


def test_folders_of_splits_give_the_split(tmp_path):
    path = folder(
        tmp_path / "set",
        {f"{side}/{label}/{i}.txt": side for side in ("train", "test") for i in "12" for label in "ab"},
    )
    read = read_labelled(path, None, None)
    assert read.labels == list("aabb") * 2 and read.sides == read.texts == ["test"] * 4 + ["train"] * 4


def test_a_folder_in_another_encoding_or_with_a_link_is_refused(tmp_path):
    path = folder(tmp_path / "set", {"a/1.txt": "caf\u00e9".encode("latin-1"), "b/1.txt": "x"})
    with pytest.raises(DataError, match=r"1\.txt: not UTF-8.*--encoding"):
        pairs(path)
    assert locate_data(str(path), "latin-1").layout.encoding == "latin-1"
    assert read_labelled(path, None, None, locate_data(str(path), "latin-1").layout).texts == ["caf\u00e9", "x"]
    (path / "b" / "2.txt").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match=r"2\.txt: a link instead of a file"):
        pairs(path)


def test_a_list_under_one_key_is_the_table(tmp_path):
    (tmp_path / "my.json").write_text(json.dumps({"version": 1, "data": OBJECTS}))
    assert pairs(tmp_path / "my.json") == ROWS
    (tmp_path / "my.json").write_text(json.dumps({"train": OBJECTS, "test": OBJECTS}))
    with pytest.raises(DataError, match="must contain a list of objects; got dict with the keys train, test.*data"):
        pairs(tmp_path / "my.json")


@pytest.mark.parametrize("name", ["my.jsonl", "my.json", "my.parquet", "my.csv"])
def test_dotted_names_are_fields_of_a_column(tmp_path, name):
    objects = [{"id": i, "content": {"text": text, "by": {"who": label}}} for i, (text, label) in enumerate(ROWS)]
    if name == "my.parquet":
        pandas.DataFrame(objects).to_parquet(tmp_path / name)
    elif name == "my.csv":
        frame = pandas.DataFrame([own | {"content": json.dumps(own["content"])} for own in objects])
        frame.to_csv(tmp_path / name, index=False)
    else:
        lines = list(map(json.dumps, objects))
        (tmp_path / name).write_text("\n".join(lines) if name == "my.jsonl" else f"[{','.join(lines)}]")
    assert pairs(tmp_path / name, "content.text", "content.by.who") == ROWS
    with pytest.raises(DataError, match="no column 'contents.text'"):
        pairs(tmp_path / name, "contents.text", "content.by.who")


def test_a_column_with_a_dot_in_its_name_is_that_column(tmp_path):
    objects = [{"a.b": "own", "a": {"b": "nested", "c": label}} for _, label in ROWS]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, [*objects, {"a.b": "own", "a": {}}])))
    assert pairs(tmp_path / "my.jsonl", "a.b", "a.c") == [("own", label) for _, label in ROWS]
    objects = [{"a": {"b": {"c": "far"}}, "a.b": {"c": text}, "label": label} for text, label in ROWS]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, objects)))
    assert pairs(tmp_path / "my.jsonl", "a.b.c") == ROWS


@pytest.mark.parametrize("kind", ["csv", "semicolons", "jsonl", "json", "wrapped", "parquet", "gz", "xlsx"])
def test_standard_input_holds_a_table_of_any_kind(tmp_path, monkeypatch, kind):
    content = {
        "csv": CSV.encode(),
        "semicolons": CSV.replace(",", ";").encode(),
        "jsonl": "\n".join(map(json.dumps, OBJECTS)).encode(),
        "json": json.dumps(OBJECTS, indent=1).encode(),
        "wrapped": json.dumps({"data": OBJECTS}).encode(),
        "gz": gzip.compress(CSV.encode()),
    }
    if kind == "parquet":
        pandas.DataFrame(OBJECTS).to_parquet(tmp_path / "my.parquet")
        content[kind] = (tmp_path / "my.parquet").read_bytes()
    if kind == "xlsx":
        content[kind] = workbook(tmp_path / "my.xlsx", [["text", "label"], *map(list, ROWS)]).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content[kind])))
    with table_name("-", tmp_path / "kept") as name:
        assert pairs(name) == ROWS
    assert Path(name).is_file() and Path(name).parent == tmp_path / "kept"


def test_standard_input_is_not_kept_unless_asked_and_never_empty(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CSV.encode())))
    with table_name("-") as name:
        assert Path(name).read_text(encoding="utf-8") == CSV
    assert not Path(name).exists()
    with table_name("my.csv") as name:
        assert name == "my.csv"
    with pytest.raises(DataError, match="standard input is empty"), table_name("-"):
        raise AssertionError
