"""Plain text becomes two files of tokens, however it is written and however little of it there is."""

import lzma

import pytest

from finetune.errors import DataError
from finetune.tasks.pretrain import documents as pretrain_documents
from finetune.tasks.pretrain.packing import PackedTokens
from finetune.tasks.pretrain.results import Excluded
from finetune.tasks.pretrain.settings import Pretrain
from finetune.tokenizer import Tokenizer


def read_back(directory, split, tokenizer):
    tokens = PackedTokens(directory / f"{split}.bin", 256, tokenizer.vocab_size, tokenizer.end_of_text)
    return [tokenizer.decode(part) for part in split_at(tokens.ids.tolist(), tokenizer.end_of_text) if part]


def split_at(ids, end):
    parts = [[]]
    for number in ids:
        if number == end:
            parts.append([])
        else:
            parts[-1].append(number)
    return parts


def test_a_text_without_empty_lines_is_cut_at_lines_so_that_some_is_held_out(tmp_path):
    lines = [f"message number {i} of many, each on a line of its own\n" for i in range(1000)]
    (tmp_path / "lines.txt").write_text("".join(lines))
    tokenizer = Tokenizer.of_bytes()
    card = pretrain_documents.write_tokens(tmp_path / "lines.txt", tmp_path, tokenizer, Pretrain(val_fraction=0.2), 1)
    parts = [read_back(tmp_path, split, tokenizer) for split in ("train", "val")]
    assert [len(part) for part in parts] == [card.documents["train"], card.documents["val"]]
    assert min(map(len, parts)) > 0 and all(text.endswith("\n") and len(text) < 4200 for text in parts[0] + parts[1])
    assert sorted("".join(parts[0] + parts[1]).splitlines(True)) == sorted(lines)


@pytest.mark.parametrize("documents", [10, 30])
def test_at_least_one_of_few_documents_is_held_out(tmp_path, documents):
    tokenizer = Tokenizer.of_bytes()
    for seed in range(5):
        (tmp_path / "few.txt").write_text("<|endoftext|>\n".join(f"text {i}\n" for i in range(documents)))
        settings = Pretrain(val_fraction=0.02)
        card = pretrain_documents.write_tokens(tmp_path / "few.txt", tmp_path, tokenizer, settings, seed)
        assert card.documents["val"] >= 1 and sum(card.documents.values()) == documents
        assert len(read_back(tmp_path, "val", tokenizer)) == card.documents["val"]


def test_one_line_is_too_little(tmp_path):
    (tmp_path / "one.txt").write_text("hello\n")
    with pytest.raises(DataError, match="too little text"):
        pretrain_documents.write_tokens(tmp_path / "one.txt", tmp_path, Tokenizer.of_bytes(), Pretrain(), 1)


def test_documents_with_a_row_of_an_evaluation_set_are_left_out_and_counted(tmp_path):
    row = "free entry in a weekly competition to win two final tickets text now"
    texts = tmp_path / "texts"
    texts.mkdir()
    plain = [f"document {i} says nothing that is tested\n" for i in range(40)]
    (texts / "clean.txt").write_text("<|endoftext|>\n".join(plain[:20]))
    with lzma.open(texts / "mixed.txt.xz", "wt") as file:
        file.write("<|endoftext|>\n".join([*plain[20:], f"he got: {row.upper()}!\n", "so\nSee you there.\n"]))
    (tmp_path / "rows.csv").write_text(f"text,label\n{row},spam\nsee you there,ham\n")
    settings = Pretrain(val_fraction=0.2, exclude=(str(tmp_path / "rows.csv"),))
    card = pretrain_documents.write_tokens(texts, tmp_path, Tokenizer.of_bytes(), settings, 1)
    assert card.excluded == Excluded(rows=2, documents=2)
    assert [card.sources[name].excluded for name in ("clean", "mixed")] == [0, 2]
    written = [text for split in ("train", "val") for text in read_back(tmp_path, split, Tokenizer.of_bytes())]
    assert sorted(written) == sorted(plain)


def test_the_piece_after_an_excluded_one_begins_a_document(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.tasks.pretrain.documents.PIECE", 16)
    text = "first line of it\nsee you there now\nlast line of it\n<|endoftext|>\nanother\n<|endoftext|>\n"
    (tmp_path / "long.txt").write_text(text * 9)
    (tmp_path / "rows.txt").write_text("See you there now\n")
    settings = Pretrain(val_fraction=0.4, exclude=(str(tmp_path / "rows.txt"),))
    pretrain_documents.write_tokens(tmp_path / "long.txt", tmp_path, Tokenizer.of_bytes(), settings, 1)
    written = [text for split in ("train", "val") for text in read_back(tmp_path, split, Tokenizer.of_bytes())]
    assert set(written) == {"first line of it\n", "last line of it\n", "another\n"}
