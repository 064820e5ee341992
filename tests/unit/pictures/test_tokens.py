"""The tree of merges is that of the tokenizer."""

import pytest

from finetune.errors import RecipeError
from finetune.pictures import tokens
from finetune.tokenizer import train_vocabulary


@pytest.fixture(scope="module")
def learned():
    """Thirty merges over a few words."""
    return train_vocabulary(["the river and the rivers, the bank and the banks"] * 3, 290)


def test_every_merge_joins_two_neighbours_and_the_last_boxes_are_the_tokens(learned):
    text = "the rivers"
    axes = tokens.draw(learned, text, "tiny")[0].figure.axes[0]
    drawn = {shown.get_text() for shown in axes.texts}
    for token in learned.encode(text):
        assert f"{learned.label(token).replace(' ', '␣')}\n{token}" in drawn
    steps = learned.merge_steps(" rivers")
    joined = tokens.joints(steps)
    assert len(joined) == len(steps) - 1 > 2
    for joint, parts in zip(joined, steps[1:], strict=True):
        assert b" rivers"[joint.first : joint.last] in parts and joint.level == 1 + max(joint.below)
        assert joint.pair == (b" rivers"[joint.first : joint.split], b" rivers"[joint.split : joint.last])
    assert len(axes.lines) == 2 * sum(len(learned.merge_steps(piece)) - 1 for piece in ("the", " rivers"))


def test_a_text_that_does_not_fit_is_cut_at_a_piece_and_that_is_said(learned):
    assert "19 pieces, is left out" in tokens.draw(learned, "the " * 30, "tiny")[0].caption
    for text, part in ((" ", "empty"), ("x" * 49, "does not fit")):
        with pytest.raises(RecipeError, match=part):
            tokens.draw(learned, text, "tiny")
