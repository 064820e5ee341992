"""Packed rows read as the lists that they were made of."""

import random

import numpy as np
import pytest

from finetune.errors import RunError
from finetune.training.token_rows import TokenRows


@pytest.mark.parametrize("vocab_size, size", [(257, 2), (65536, 2), (65537, 4), (200_000, 4)])
def test_rows_are_the_lists_they_were_made_of(vocab_size, size):
    draw = random.Random(0)
    lists = [[draw.randrange(vocab_size) for _ in range(draw.choice([0, 1, 5, 30]))] for _ in range(50)]
    lists[7] = [vocab_size - 1, 0]
    rows = TokenRows.of([lists[:20], [], lists[20:]], vocab_size)
    assert list(rows) == lists and len(rows) == 50 and rows[-1] == lists[-1] and rows[0] == lists[0]
    assert rows.lengths() == list(map(len, lists)) and rows.ids.itemsize == size
    assert list(rows[3:40:4]) == lists[3:40:4] and rows[3:9].ids.itemsize == size
    assert list(rows[:10] + rows[10:]) == lists and list(rows[5:5]) == []
    with pytest.raises(IndexError):
        rows[50]


@pytest.mark.parametrize("vocab_size", [257, 70_000])
def test_rows_are_taken_cut_and_mapped_from_a_file(tmp_path, vocab_size):
    draw = random.Random(1)
    lists = [[draw.randrange(vocab_size) for _ in range(draw.choice([0, 1, 5, 30]))] for _ in range(40)]
    rows, wanted = TokenRows.of([lists], vocab_size), [39, 0, 7, 7, 3]
    assert list(rows.take(wanted)) == [lists[i] for i in wanted]
    cut = rows.take(wanted, most=4)
    assert list(cut) == [lists[i][:4] for i in wanted] and list(rows.take([])) == []
    for name, part in (("all", rows), ("cut", cut), ("none", rows.take([]))):
        part.save(tmp_path / name)
        again = TokenRows.load(tmp_path / name)
        assert list(again) == list(part) and again.lengths() == part.lengths()
    assert isinstance(TokenRows.load(tmp_path / "all").ids, np.memmap)


def test_tokens_of_another_size_are_refused(tmp_path):
    TokenRows.of([[[1, 2, 3], [4]]], 257).save(tmp_path / "train")
    (tmp_path / "train.ids").write_bytes(b"123")
    with pytest.raises(RunError, match="train.ids: not the tokens written by this run.*--from prepare"):
        TokenRows.load(tmp_path / "train")


def test_no_rows_are_rows():
    assert list(TokenRows.of([], 300)) == [] and TokenRows.of([], 300).lengths() == []
