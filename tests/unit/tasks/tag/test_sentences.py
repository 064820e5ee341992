"""Sentences are read alike from every kind of file; what cannot be read is said with its place."""

import json

import pandas as pd
import pytest

from finetune.errors import DataError
from finetune.tasks.tag.sentences import locate_sentences, read_sentences
from finetune.tasks.tag.settings import Tag

SENTENCES = [
    (["Anna", "Berg", "slept", "."], ["B-person", "I-person", "O", "O"]),
    (["Rain", "in", "Oslo", "."], ["O", "O", "B-place", "O"]),
    (["Nothing", "."], ["O", "O"]),
]


def read(path, encoding=None, **settings):
    return read_sentences(locate_sentences(str(path), encoding), Tag(**settings), encoding)


def conll(delimiter="\t", middle=""):
    lines = ("\n".join(f"{w}{delimiter}{middle}{t}" for w, t in zip(*own, strict=True)) for own in SENTENCES)
    return "\n\n".join(lines) + "\n"


def write_rows(path, names=("Sentence #", "Word", "POS", "Tag"), filled=True):
    rows = [
        [f"s{number}" if filled or at == 0 else "", word, "X", tag]
        for number, (words, tags) in enumerate(SENTENCES)
        for at, (word, tag) in enumerate(zip(words, tags, strict=True))
    ]
    pd.DataFrame(rows, columns=list(names)).to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")


WRITERS = {
    "tabs.conll": lambda path: path.write_text(conll()),
    "spaces.txt": lambda path: path.write_text("-DOCSTART- -X- O O\n\n" + conll(" ", "NNP B-NP ")),
    "comments.bio": lambda path: path.write_text("# id = 1\n" + conll().replace("\n\n", "\n\n\n# text = x y\n", 1)),
    "windows.conll": lambda path: path.write_bytes(conll().replace("\n", "\r\n").encode("utf-8-sig")),
    "blank.tsv": lambda path: path.write_text(conll()),
    "rows.csv": write_rows,
    "rows.tsv": write_rows,
    "first.csv": lambda path: write_rows(path, filled=False),
    "lists.jsonl": lambda path: path.write_text(
        "".join(json.dumps({"tokens": words, "ner_tags": tags}) + "\n" for words, tags in SENTENCES)
    ),
    "lists.json": lambda path: path.write_text(json.dumps([{"words": w, "tags": t} for w, t in SENTENCES])),
    "lists.parquet": lambda path: pd.DataFrame(
        {"id": range(3), "tokens": [w for w, _ in SENTENCES], "tags": [t for _, t in SENTENCES]}
    ).to_parquet(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_holds_the_same_sentences(tmp_path, name):
    WRITERS[name](tmp_path / name)
    found = read(tmp_path / name).sentences
    assert [(own.words, own.tags) for own in found] == SENTENCES
    assert [own.row for own in found] == [0, 1, 2]


def test_a_saved_data_set_names_its_numbers(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = ["O", "B-person", "I-person", "B-place"]
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=names)),
        }
    )
    rows = {"tokens": [w for w, _ in SENTENCES], "ner_tags": [[names.index(tag) for tag in t] for _, t in SENTENCES]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    whole.save_to_disk(tmp_path / "saved")
    assert [(own.words, own.tags) for own in read(tmp_path / "saved").sentences] == SENTENCES
    datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(tmp_path / "both")
    found = read(tmp_path / "both")
    assert len(found.sentences) == 6 and "split again" in found.notes[-1]


def test_columns_can_be_named(tmp_path):
    write_rows(tmp_path / "odd.csv", ("where", "a", "b", "c"))
    with pytest.raises(DataError, match=r"no words column.*--set tag.words=NAME"):
        read(tmp_path / "odd.csv")
    found = read(tmp_path / "odd.csv", words="a", tags="c", sentence="where")
    assert [(own.words, own.tags) for own in found.sentences] == SENTENCES


def test_other_schemes_are_rewritten_and_said(tmp_path):
    path = tmp_path / "x.conll"
    path.write_text(conll().replace("B-place", "S-place"))
    found = read(path)
    assert found.sentences[1].tags == SENTENCES[1][1] and "converted the tags of 1 sentence to IOB2" in found.notes[0]
    path.write_text(conll().replace("B-", "").replace("I-", ""))
    found = read(path)
    assert [own.tags for own in found.sentences] == [
        tags for _, tags in SENTENCES
    ] and "no B- or I- prefix" in found.notes[0]


def test_empty_words_and_sentences_are_counted(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [
        *({"tokens": w, "tags": t} for w, t in SENTENCES),
        {"tokens": [], "tags": []},
        {"tokens": [" ", "a"], "tags": ["O", "O"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(path).dropped == {"a sentence without words": 1, "an empty word": 1}


@pytest.mark.parametrize(
    "text, said",
    [
        ("Anna B-person\nslept\n", "line 2: a word without a tag"),
        (conll().replace("B-place", "place"), "some tags have no B- or I- prefix"),
        ("a\tNOUN\n\nb\tVERB\n\nc\tNOUN\n", "every word is in an entity"),
        ("a\tO\n", "too few sentences"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, text, said):
    (tmp_path / "x.conll").write_text(text)
    with pytest.raises(DataError, match=said):
        read(tmp_path / "x.conll")


@pytest.mark.parametrize(
    "row, said",
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 words and 1 tag"),
        ({"tokens": ["a"], "tags": [3]}, "numbers without names"),
        ({"tokens": [7], "tags": ["O"]}, "contains a value that is not text"),
        ({"tokens": "a", "tags": "O"}, "tokens is not a list"),
        ({"tokens": ["a"], "tags": [""]}, "a word without a tag"),
    ],
)
def test_a_row_that_does_not_pair_is_refused(tmp_path, row, said):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(own) + "\n" for own in ({"tokens": ["x"], "tags": ["O"]}, row)))
    with pytest.raises(DataError, match=said):
        read(path)


def test_another_encoding_is_asked_for_and_read(tmp_path):
    path = tmp_path / "x.conll"
    path.write_bytes(conll().replace("Oslo", "Malmö").encode("latin-1"))
    with pytest.raises(DataError, match=r"not utf-8.*--encoding"):
        read(path)
    assert read(path, "latin-1").sentences[1].words[2] == "Malmö"


def test_no_such_data(tmp_path):
    with pytest.raises(DataError, match="none.conll. is neither a bundled set of sentences nor an existing file"):
        locate_sentences(str(tmp_path / "none.conll"))
