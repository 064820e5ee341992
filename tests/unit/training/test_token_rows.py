"""Packed rows read as the lists that they were made of."""

import random

import pytest

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


def test_no_rows_are_rows():
    assert list(TokenRows.of([], 300)) == [] and TokenRows.of([], 300).lengths() == []
