"""Plain text as documents, whatever file it stands in."""

import json
import lzma

import datasets
import pytest

from finetune.errors import DataError
from finetune.tasks.pretrain import documents
from finetune.tasks.pretrain.documents import iterate_pieces, text_files
from finetune.tasks.pretrain.settings import Pretrain
from finetune.tokenizer import Tokenizer


def joined(path):
    """The documents of a file, their pieces put together."""
    texts, held = [], ""
    for text, ends in iterate_pieces(path):
        held += text
        if ends:
            texts.append(held)
            held = ""
    assert not held
    return texts


def test_separator_lines_end_documents(tmp_path):
    (tmp_path / "a.txt").write_text("one\n<|endoftext|>\ntwo\nlines\n<|endoftext|>\n<|endoftext|>\nthree")
    assert joined(tmp_path / "a.txt") == ["one\n", "two\nlines\n", "three"]


def test_a_separator_inside_a_line_is_text(tmp_path):
    (tmp_path / "a.txt").write_text("a <|endoftext|> b\n")
    assert joined(tmp_path / "a.txt") == ["a <|endoftext|> b\n"]


def test_compressed_and_jsonl_give_the_same(tmp_path):
    with lzma.open(tmp_path / "a.txt.xz", "wt", encoding="utf-8") as file:
        file.write("première\n<|endoftext|>\nsecond 🎉\n")
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in ("première\n", "second 🎉\n")))
    assert joined(tmp_path / "a.txt.xz") == joined(tmp_path / "b.jsonl") == ["première\n", "second 🎉\n"]


def test_long_documents_come_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "PIECE", 50)
    (tmp_path / "a.txt").write_text("".join(f"line {i}\n" for i in range(100)))
    pieces = list(iterate_pieces(tmp_path / "a.txt"))
    assert len(pieces) > 5 and max(len(text) for text, _ in pieces) < 80
    assert "".join(text for text, _ in pieces) == (tmp_path / "a.txt").read_text()
    assert [ends for _, ends in pieces] == [False] * (len(pieces) - 1) + [True]


def test_folder_is_read_in_order(tmp_path):
    for name in ("b.txt", "a.md", "c.jsonl", "ignored.png"):
        (tmp_path / name).write_text("")
    assert [path.name for path in text_files(tmp_path)] == ["a.md", "b.txt", "c.jsonl"]


@pytest.mark.parametrize("content", ['{"body": 1}', '["text"]', '{"text": 3}', "not json"])
def test_a_malformed_line_is_named(tmp_path, content):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + content + "\n")
    with pytest.raises(DataError, match="line 2"):
        list(iterate_pieces(tmp_path / "a.jsonl"))


def test_files_that_are_not_text_raise(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="UTF-8"):
        list(iterate_pieces(tmp_path / "a.txt"))
    with pytest.raises(DataError, match="no such"):
        text_files(tmp_path / "missing.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no text files"):
        text_files(tmp_path / "empty")


def test_a_table_is_refused(tmp_path):
    (tmp_path / "my.CSV").write_text("text,label\nhello,a\n")
    with pytest.raises(DataError, match="a table.*jsonl"):
        text_files(tmp_path / "my.CSV")


def test_a_saved_data_set_is_read_like_any_file(tmp_path):
    rows = datasets.Dataset.from_dict({"id": [1, 2, 3], "text": ["one 🎉", None, "two\nlines"]})
    rows.save_to_disk(tmp_path / "rows")
    datasets.DatasetDict({"test": rows.select([0]), "train": rows}).save_to_disk(tmp_path / "splits")
    for name in ("rows", "splits"):
        assert text_files(tmp_path / name) == [tmp_path / name]
        assert joined(tmp_path / name) == ["one 🎉", "two\nlines"]


@pytest.mark.parametrize("columns, named", [({"body": ["a"]}, "body"), ({"text": [1]}, "text")])
def test_a_saved_data_set_without_text_is_refused(tmp_path, columns, named):
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "rows")
    with pytest.raises(DataError, match=f"no column of strings named text.*{named}"):
        joined(tmp_path / "rows")


def test_a_damaged_data_set_is_refused(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="not a readable data set"):
        joined(tmp_path)


def test_parts_have_one_token_more_than_their_sources_and_the_page_says_why(tmp_path):
    from finetune.records import DataOrigin
    from finetune.tasks.pretrain.page import data_section

    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text("".join(f"{name} line {i}\n\n" for i in range(2000)))
    counts = documents.write_tokens(folder, tmp_path, Tokenizer.of_bytes(), Pretrain(val_fraction=0.2), 1)
    for split, total in counts.tokens.items():
        assert total == 1 + sum(getattr(source, split).tokens for source in counts.sources.values())
    card = counts.of(DataOrigin("texts", "texts", "the user's", "", "", ""))
    assert "one token more" in data_section(card).blocks[-1].text
