"""Which rows the trainings of a learning curve see."""

import numpy as np
import pytest

from finetune.comparisons.learning_curve.subsets import draw_rows, trainings
from finetune.errors import RecipeError
from finetune.pipeline import make_recipe


def test_a_share_keeps_the_labels_and_lies_in_the_larger_share_of_its_seed():
    targets = np.repeat([0, 1, 2], [700, 290, 10])
    small, large = (draw_rows(targets, share, seed=3) for share in (0.1, 0.5))
    assert np.bincount(targets[small]).tolist() == pytest.approx([70, 29, 1], abs=2)
    assert np.bincount(targets[large]).tolist() == pytest.approx([350, 145, 5], abs=2)
    assert len(small) == 100 and set(small) < set(large) and (np.diff(small) > 0).all()
    assert draw_rows(targets, 1.0, 3).tolist() == list(range(1000))
    assert set(draw_rows(targets, 0.1, 4)) != set(small) and (draw_rows(targets, 0.1, 3) == small).all()
    few = draw_rows(targets, 0.001, 0)
    assert sorted(targets[few]) == [0, 1, 2]


def test_small_shares_are_drawn_as_often_as_costs_no_more_than_one_whole():
    recipe = make_recipe("learning-curve", ["train.seed=7"])
    assert trainings(recipe) == [
        *((0.1, seed) for seed in (7, 8, 9)),
        *((0.25, seed) for seed in (7, 8, 9)),
        *((0.5, seed) for seed in (7, 8)),
        (1.0, 7),
    ]
    assert trainings(make_recipe("learning-curve", ["learning_curve.seeds=1", "learning_curve.shares=[0.2,0.9]"])) == [
        (0.2, 123),
        (0.9, 123),
    ]


@pytest.mark.parametrize("shares", ["[0.5, 0.1]", "[0.5, 0.5]", "[0, 1]", "[0.5, 1.5]", "[1.0]"])
def test_shares_that_do_not_rise_are_refused(shares):
    with pytest.raises(RecipeError, match="shares"):
        make_recipe("learning-curve", [f"learning_curve.shares={shares}"])
