"""Files made to do harm: JSON nested without end, small files that unpack to gigabytes, objects with endless keys."""

import gzip
import json
import time
import zipfile
from pathlib import Path

import pytest

from finetune.errors import DataError
from finetune.tables import unpacking
from finetune.tables.readers import read_labelled
from finetune.tables.sources import locate_data
from finetune.tables.tables import iterate_table
from finetune.tasks.pretrain.exclusion import evaluation_rows
from finetune.tasks.tag.sentences import locate_sentences, read_sentences
from finetune.tasks.tag.settings import Tag

DEEP = "[" * 100_000
CLASSIFY = ("--weights", "random-bytes", "--until", "prepare")
NESTED = {  # what is nested: file, content, command, words
    "a line of JSONL": ("my.jsonl", DEEP, ("classify", "my.jsonl", *CLASSIFY), "line 1: cannot be read as JSON"),
    "a table as JSON": ("my.json", DEEP, ("classify", "my.json", *CLASSIFY), "cannot be read as JSON"),
    "objects in a line": ("my.jsonl", '{"a":' * 100_000, ("data", "check", "my.jsonl"), "cannot be read as JSON"),
    "instructions": ("my.jsonl", DEEP, ("run", "instruct", "--set", "data=my.jsonl"), "line 1: not JSON"),
    "a list of instructions": ("my.json", DEEP, ("run", "instruct", "--set", "data=my.json"), "not JSON"),
    "pairs": ("my.jsonl", DEEP, ("run", "seq2seq", "--set", "data=my.jsonl"), "cannot be read as JSON"),
    "a text": ("my.jsonl", DEEP, ("run", "pretrain", "--set", "data=my.jsonl"), "line 1: not a JSON object"),
    "sentences": ("my.jsonl", DEEP, ("run", "tagger", "--set", "data=my.jsonl"), "cannot be read as JSON"),
    "a recipe": ("recipe.json", DEEP, ("run", "recipe.json"), "recipe.json"),
}


@pytest.mark.parametrize("case", NESTED)
def test_json_nested_without_end_is_refused_in_words(case, finetune):
    name, content, command, words = NESTED[case]
    Path(name).write_text(content)
    weights = ("--set", "weights=random-bytes") if command[0] == "run" and name != "recipe.json" else ()
    done = finetune(*command, *weights)
    assert done.status == 2 and words in done.err and "Traceback" not in done.err, done.err
    assert len(done.err) < 2000


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
@pytest.mark.parametrize("content", [DEEP, "[" * 500 + '"a"' + "]" * 500])
def test_an_evaluation_set_that_is_nested_is_refused_or_read(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    if content == DEEP:
        with pytest.raises(DataError, match="not a readable evaluation set"):
            list(evaluation_rows(tmp_path / name))
    else:
        assert list(evaluation_rows(tmp_path / name)) == ["a"]


def test_a_cell_that_is_nested_is_no_list_of_words(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text(f'tokens,tags\n"{DEEP}","{DEEP}"\n')
    with pytest.raises(DataError, match="row 0: tokens is not a list"):
        read_sentences(locate_sentences(str(path)), Tag())


def test_a_cell_that_is_nested_is_a_text(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text("text,label\n" + f'"{DEEP}",a\nshort,b\n' * 2)
    assert read_labelled(path, None, None, locate_data(str(path)).layout).texts == [DEEP, "short"] * 2


def test_a_duplicate_key_among_many_is_found_at_once(tmp_path):
    keys = [f'"k{number}": 1' for number in range(100_000)]
    (tmp_path / "my.jsonl").write_text("{" + ", ".join([*keys, '"k99999": 2']) + "}\n")
    begun = time.process_time()
    with pytest.raises(DataError, match="duplicate key 'k99999'"):
        list(iterate_table(tmp_path / "my.jsonl"))
    assert time.process_time() - begun < 5


@pytest.fixture
def few_bytes(monkeypatch):
    """A bomb of 3 MB instead of one of gigabytes."""
    monkeypatch.setattr(unpacking, "LEAST_BYTES", 1 << 20)


BOMBS = {
    "my.csv.gz": b"text,label\n" + b"a" * 3_000_000,
    "my.tsv.gz": b"text\tlabel\n" + b"a\tb\n" * 800_000,
    "my.json.gz": b"[" + b" " * 3_000_000 + b"]",
    "my.jsonl.gz": b'{"text": "' + b"a" * 3_000_000 + b'", "label": "a"}\n',
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_unpacks_without_measure_is_refused(name, finetune, few_bytes):
    Path(name).write_bytes(gzip.compress(BOMBS[name]))
    for command in (("data", "check", name), ("classify", name, *CLASSIFY)):
        done = finetune(*command)
        assert done.status == 2 and f"{name}: unpacks to far more data than a table of its size should" in done.err


def test_a_workbook_that_unpacks_without_measure_is_refused(finetune, few_bytes):
    with zipfile.ZipFile("my.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/worksheets/sheet1.xml", b" " * 3_000_000)
    done = finetune("data", "check", "my.xlsx")
    assert done.status == 2 and "my.xlsx: unpacks to far more data than a table of its size should" in done.err


def test_a_table_that_repeats_itself_is_unpacked(tmp_path, few_bytes):
    """Rows that are alike compress well, and are no bomb."""
    rows = [f"row {number} of many that are alike,{'ab'[number % 2]}" for number in range(40_000)]
    path = tmp_path / "my.csv.gz"
    path.write_bytes(gzip.compress("\n".join(["text,label", *rows]).encode()))
    assert path.stat().st_size < 1 << 20 < sum(map(len, rows))
    assert sum(1 for _ in iterate_table(path)) == 40_000


def test_json_of_a_run_keeps_texts_that_look_like_commands(finetune, table):
    """What a run writes as JSON is JSON, whatever a label is called."""
    hostile = [
        "=cmd|'/c calc'!A0",
        "../../etc",
        "{{ 7 * 7 }}",
        "\x1b[31mred",
        "<script>alert(1)</script>",
        "`$(reboot)`",
    ]
    rows = ["".join("abcdefghij"[int(digit)] for digit in f"{number:04}") for number in range(20 * len(hostile))]
    labels = [hostile[number % len(hostile)] for number in range(len(rows))]
    lines = [json.dumps({"text": text, "label": label}) for text, label in zip(rows, labels, strict=True)]
    Path("my.jsonl").write_text("\n".join(lines), encoding="utf-8")
    done = finetune("classify", "my.jsonl", "--name", "hostile", *CLASSIFY)
    assert done.status == 0 and "\x1b" not in done.out + done.err
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert all(path.parts[0] in ("runs", "my.jsonl") for path in files)
    card = json.loads(Path("runs/hostile/data/card.json").read_text(encoding="utf-8"))
    assert sorted(card["labels"]) == sorted(hostile)
