"""Plain text becomes two files of tokens, however it is written and however little of it there is."""

import pytest

from finetune.errors import DataError
from finetune.tasks.pretrain import documents as pretrain_documents
from finetune.tasks.pretrain.packing import PackedTokens
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
def test_of_few_documents_one_at_least_is_held_out(tmp_path, documents):
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
