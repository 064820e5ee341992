"""Ragged rows become right-padded tensors, and each row's last position is its own."""

import torch

from finetune.training.collate import last_positions, pad_ids, pad_states


def test_ids_are_padded_on_the_right():
    ids, last = pad_ids([[7, 8, 9], [5], [1, 2]], pad=99)
    assert ids.tolist() == [[7, 8, 9], [5, 99, 99], [1, 2, 99]]
    assert ids.dtype == torch.long and last.tolist() == [2, 0, 1]


def test_last_is_the_position_even_if_the_token_looks_like_a_pad():
    ids, last = pad_ids([[0, 0], [3, 0, 0, 4]])
    assert ids.tolist() == [[0, 0, 0, 0], [3, 0, 0, 4]] and last.tolist() == [1, 3]


def test_states_are_padded_and_come_back_whole():
    torch.manual_seed(0)
    rows = [torch.randn(length, 5) for length in (4, 1, 6)]
    states, last = pad_states(rows)
    assert states.shape == (3, 6, 5) and last.tolist() == [3, 0, 5]
    for row, state, end in zip(rows, states, last, strict=True):
        assert torch.equal(state[: end + 1], row) and not state[end + 1 :].any()
    assert torch.equal(last, last_positions(rows))
