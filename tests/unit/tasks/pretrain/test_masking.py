"""BERT's masking: its shares, that nothing else changes, and that a draw can be had again."""

import numpy as np
import pytest
from scipy.stats import binom

from finetune.tasks.pretrain.masking import Masking

IGNORE, MASK, END, VOCABULARY = -100, 998, 999, 1000
MASKING = Masking(MASK, frozenset({997, MASK, END}), VOCABULARY, seed=7)
ONE_IN_A_MILLION = 1e-6


def draw(rows: int = 400, length: int = 100):
    """Originals, inputs and targets of many rows of ordinary tokens between two special ones."""
    random = np.random.default_rng(1)
    ids = [[END, *random.integers(0, 997, length).tolist(), END] for _ in range(rows)]
    drawn = [MASKING.apply(own, 0, number, IGNORE) for number, own in enumerate(ids)]
    return np.array(ids), *(np.array(part) for part in zip(*drawn, strict=True))


def assert_share(found: int, of: int, share: float) -> None:
    """A count that a binomial of that share gives but once in a million draws is not of that share."""
    low, high = binom.ppf([ONE_IN_A_MILLION / 2, 1 - ONE_IN_A_MILLION / 2], of, share)
    assert low <= found <= high, (found / of, share)


def test_the_shares_are_those_of_the_paper():
    ids, inputs, targets = draw()
    chosen = targets != IGNORE
    assert (chosen.sum(axis=1) == 15).all()  # 15 % of 100, in each row
    n, changed = chosen.sum(), inputs != ids
    assert n == 6000 and not changed[~chosen].any()
    assert_share((inputs[chosen] == MASK).sum(), n, 0.8)
    assert_share((changed & (inputs != MASK))[chosen].sum(), n, 0.1 * (1 - 1 / 997))  # a random one may be the same
    assert_share((~changed)[chosen].sum(), n, 0.1 + 0.1 / 997)
    assert_share(chosen[:, 1:51].sum(), n, 0.5)  # no place is preferred
    replaced = inputs[chosen & changed & (inputs != MASK)]
    assert replaced.max() < 997 and len(set(replaced.tolist())) > 200  # any token, but never a special one


def test_targets_are_the_originals_and_special_tokens_stay():
    ids, inputs, targets = draw(rows=50)
    chosen = targets != IGNORE
    assert (targets[chosen] == ids[chosen]).all()
    assert not chosen[:, [0, -1]].any() and (inputs[:, [0, -1]] == END).all()
    untouched, targets = MASKING.apply([END, 997, END], 0, 0, IGNORE)
    assert untouched.tolist() == [END, 997, END] and (targets == IGNORE).all() and MASKING.count([END, 997]) == 0


@pytest.mark.parametrize("length, expected", [(1, 1), (3, 1), (10, 2), (20, 3), (100, 15)])
def test_a_row_has_as_many_targets_as_it_was_counted_with(length, expected):
    ids = [END, *range(length)]
    counts = {int((MASKING.apply(ids, epoch, 3, IGNORE)[1] != IGNORE).sum()) for epoch in range(5)}
    assert counts == {expected} and MASKING.count(ids) == expected


def test_a_draw_is_a_function_of_seed_epoch_and_row():
    ids = list(range(100))

    def places(epoch: int, row: int, seed: int = 7):
        return np.flatnonzero(Masking(MASK, MASKING.special, VOCABULARY, seed).apply(ids, epoch, row, IGNORE)[1] + 100)

    np.testing.assert_array_equal(places(2, 5), places(2, 5))
    for other in (places(3, 5), places(2, 6), places(2, 5, seed=8), places(5, 2)):
        assert other.tolist() != places(2, 5).tolist()
