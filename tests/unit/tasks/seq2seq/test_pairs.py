"""Pairs of source and target: every kind of file gives the same ones, and what is left out is counted with its rows."""

import csv
import json

import pytest

from finetune.errors import DataError
from finetune.tasks.seq2seq.pairs import TextPair, find_pair, locate_pairs, read_pairs

PAIRS = [("I am cold.", "J'ai froid."), ('a "word", with commas\nand lines', "🦊\u2028zwei"), (" 01", "NA"), ("x", "y")]


@pytest.fixture
def write(tmp_path):
    """Write a file's text; returns its path."""

    def to(text, name="my.tsv", encoding="utf-8"):
        (tmp_path / name).write_text(text, encoding=encoding, newline="")
        return tmp_path / name

    return to


def test_every_kind_of_file_gives_the_same_pairs(write, tmp_path):
    import pandas

    paths = []
    for name, mark in (("my.csv", ","), ("my.tsv", "\t")):
        paths.append(tmp_path / name)
        with open(paths[-1], "w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=mark).writerows(
                [("Target", "id", "source"), *((target, "7", source) for source, target in PAIRS)]
            )
    objects = [{"Target": target, "id": 7, "source": source} for source, target in PAIRS]
    paths += [write(json.dumps(objects), "my.json"), write("\n".join(map(json.dumps, objects)), "my.jsonl")]
    pandas.DataFrame(objects).to_parquet(tmp_path / "my.parquet")
    expected = [TextPair(i, source, target) for i, (source, target) in enumerate(PAIRS)]
    for path in (*paths, tmp_path / "my.parquet"):
        found = read_pairs(path)
        assert found.records == expected and found.columns == ("source", "Target") and found.dropped == {}, path
        assert "source column 'source', target column 'Target': by their names" in found.notes


def test_pairs_without_source_or_target_are_counted_with_their_rows(write):
    found = read_pairs(write("source\ttarget\na\tA\n\tB\nc\t  \n \t\nd\tD\ne\tE\n"))
    assert [record.row for record in found.records] == [0, 4, 5]
    assert found.dropped == {"empty source": 2, "empty target": 1}
    assert found.dropped_rows == {"empty source": [1, 3], "empty target": [2]}
    objects = [{"source": "a", "target": None}, {"source": "b"}, *({"source": s, "target": "x"} for s in "cde")]
    assert read_pairs(write(json.dumps(objects), "my.json")).dropped_rows == {"empty target": [0, 1]}


@pytest.mark.parametrize(
    "names, source, target, at",
    [
        (["tgt", "src"], None, None, (1, 0)),
        (["id", "Document", "date", "SUMMARY "], None, None, (1, 3)),
        (["english", "french"], None, None, (0, 1)),
        (["english", "french"], "french", None, (1, 0)),
        (["english", "french"], None, "english", (1, 0)),
        (["a", "b", "c"], "c", "a", (2, 0)),
        (["source", "target", "document", "summary"], "document", None, (2, 3)),
        (["source", "target", "summary"], None, "summary", None),
        (["id", "source", "input", "output"], None, None, (2, 3)),
        (["a", "target", "source", "x"], None, "target", (2, 1)),
    ],
)
def test_columns_are_found_as_named_by_name_or_as_the_only_two(tmp_path, names, source, target, at):
    if at is None:
        with pytest.raises(DataError, match="no source column recognised by its name"):
            find_pair(names, source, target, tmp_path)
    else:
        found, notes = find_pair(names, source, target, tmp_path)
        assert found == at and len(notes) == (None in (source, target))


@pytest.mark.parametrize(
    "names, source, target, message",
    [
        (
            ["id", "a", "b"],
            None,
            None,
            "no source and target column recognised by its name; got id, a, b; known: "
            "source/target, src/tgt.*seq2seq.source=NAME.*seq2seq.target=NAME",
        ),
        (["sorce", "x"], "source", None, "no column 'source'; got sorce, x; did you mean 'sorce'.*seq2seq.source"),
        (["source", "target", "source"], None, None, "2 columns are called 'source'"),
        (["a", "a"], None, None, "2 columns are called 'a'"),
        (["a", "b"], "a", "a", "source and target are the same column"),
        (["text"], None, None, "no source and target column"),
    ],
)
def test_ambiguous_columns_are_refused_with_the_existing_names(tmp_path, names, source, target, message):
    with pytest.raises(DataError, match=message):
        find_pair(names, source, target, tmp_path)


@pytest.mark.parametrize(
    "text, name, message",
    [
        ("", "my.tsv", "the file is empty"),
        ("source\ttarget\n", "my.tsv", "a header and no rows"),
        ("[]", "my.json", "no rows; known: one row per pair"),
        (
            "source\ttarget\na\tb\n",
            "my.tsv",
            "too few pairs; got 1 with a source in 'source' and a target in 'target'; known: at least 3, one each",
        ),
        ("source\ttarget\na\tb\nc\t\n", "my.tsv", r"got 1 .*\(1 row left out: empty target\)"),
        ("source\ttarget\na\tb\tc\n", "my.tsv", "line 2: 3 fields"),
        ('{"source": "a", "source": "b"}', "my.jsonl", "line 1: cannot be read as JSON; got duplicate key 'source'"),
        ("a", "my.xls", "unknown file extension; got '.xls'; known: .csv"),
        ("{}", "my.json", "must contain a list of objects"),
    ],
)
def test_files_without_pairs_are_refused(write, text, name, message):
    with pytest.raises(DataError, match=message):
        read_pairs(write(text, name))


def test_another_encoding_is_named_or_refused(write):
    path = write("source\ttarget\n" + "né\tborn\n" * 3, encoding="latin-1")
    with pytest.raises(DataError, match="not UTF-8; got byte 0xe9 in line 2.*encoding=cp1252.*'né"):
        read_pairs(path)
    located = locate_pairs(str(path), "cp1252")
    assert read_pairs(path, layout=located.layout).records[0].source == "né" and located.detected.notes


def test_a_recognised_missing_header_keeps_the_first_row(write):
    found = read_pairs(write("go\tva\nrun\tcours\ngo\tvas\ngo\tallez\n"))
    assert len(found.records) == 4 and "no header: the first row is data" in found.notes[0]
    assert (
        "the only columns; the first row is read as the header"
        in read_pairs(write("english\tfrench\n" + "a\tb\n" * 3)).notes[-1]
    )


def test_the_sample_and_files_are_located_and_other_names_refused(write, tmp_path, monkeypatch):
    sample = locate_pairs("seq2seq-sample")
    found = read_pairs(sample.path, layout=sample.layout)
    assert len(found.records) == 20_000 and found.dropped == {} and sample.licence == "CC0 1.0"
    assert locate_pairs(str(write("a\tb\n"))).source == "the user's file"
    for name, message in (
        ("none.tsv", "'none.tsv' is neither a bundled set of pairs nor an existing file; known: seq2seq-sample, hf:"),
        ("spam-sample", "'spam-sample' is neither a bundled set of pairs"),
        (str(tmp_path), "a directory instead of a file"),
    ):
        with pytest.raises(DataError, match=message):
            locate_pairs(name)
    monkeypatch.setattr("finetune.tables.sources.get_hub_dataset", {"hf:o/n": tmp_path}.get)
    assert locate_pairs("hf:o/n").layout.kind == "dataset"


def test_a_first_row_that_is_a_sentence_is_a_pair(tmp_path):
    """As the public translation files come: no header, and perhaps a third column that nobody asked for."""
    path = tmp_path / "fra.tsv"
    path.write_text("Go.\tVa !\tCC-BY\nHi.\tSalut !\tCC-BY 2\nRun!\tCours !\tCC-BY 3\n", encoding="utf-8")
    for columns in ((None, None), ("source", "target")):
        found = read_pairs(path, *columns)
        assert [record.source for record in found.records] == ["Go.", "Hi.", "Run!"]
        assert found.columns == ("source", "target") and "no header" in " ".join(found.notes)
    path.write_text("Go.\tVa !\nHi.\tSalut !\nRun!\tCours !\nNo\tNon\n", encoding="utf-8")
    assert len(read_pairs(path).records) == 4
    path.write_text("in English\tin French\nHi.\tSalut !\nRun!\tCours !\nNo\tNon\n", encoding="utf-8")
    assert read_pairs(path).columns == ("in English", "in French") and len(read_pairs(path).records) == 3
