"""Single rules that tell the labels apart are found, and nothing where the labels look alike."""

import random

import pytest

from finetune.tables.giveaways import giveaways
from finetune.tables.readers import LabelledTexts
from finetune.tables.white_space import fold_white_space


def source(mark=lambda text, row: text, rows: int = 200) -> LabelledTexts:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(["apple", "river", "stone", "cloud"], k=6)) for _ in range(rows)]
    texts = [mark(text, row) for row, text in enumerate(texts)]
    return LabelledTexts(list(range(rows)), texts, ["yes", "no"] * (rows // 2), [], "text", "label")


def test_texts_that_look_alike_give_nothing_away():
    assert giveaways(source()) == [] == giveaways(source(lambda text, row: text + "  "))


@pytest.mark.parametrize(
    "mark, check, words",
    [
        (lambda text, row: text + "  " * (row % 2), "white_space_clue", "ends with white space in 100% of the rows"),
        (lambda text, row: " " * (row % 2) + text, "white_space_clue", "begins with white space"),
        (lambda text, row: text.replace(" ", " " * (1 + row % 2)), "white_space_clue", "two or more spaces"),
        (lambda text, row: text + "\u200b" * (row % 2), "white_space_clue", "invisible characters"),
        (lambda text, row: text.replace(" ", "\n", row % 2), "white_space_clue", "has line breaks"),
        (lambda text, row: text + "!" * (row % 2), "style_clue", "ends with an exclamation mark"),
        (lambda text, row: text.upper() if row % 2 else text, "style_clue", "letter"),
        (lambda text, row: text * (1 + 3 * (row % 2)), "style_clue", "characters in 100% of the rows"),
    ],
)
def test_a_mark_of_one_label_is_found(mark, check, words):
    (finding,) = giveaways(source(mark))
    assert finding.check == check and words in finding.what and finding.count == 100
    assert finding.rows and ("columns.white_space=fold" in finding.do) == (check == "white_space_clue")


def test_the_shares_are_counted_and_those_of_the_test_rows_stand_apart():
    found = source(lambda text, row: text + "  " * (row % 2 and row < 128 or row in (0, 2)))
    found.sides = ["train"] * 150 + ["test"] * 50
    (finding,) = giveaways(found)
    assert finding.what == (
        "the text ends with white space in 64% of the rows labelled 'no' and in 2% of the others; in the test rows of "
        "that label, in 0%"
    )


def test_a_mark_that_is_as_frequent_elsewhere_is_none():
    assert giveaways(source(lambda text, row: text + "  " * (row % 3 == 0))) == []


def test_folded_texts_have_no_such_differences():
    assert fold_white_space("\ufeff a\u00a0 b\t\nc\u200b  ") == "a b c"
    assert fold_white_space("\U0001f469\u200d\U0001f680") == "\U0001f469\u200d\U0001f680"
    marked = source(lambda text, row: text.replace(" ", "  ") + "\u200b \n" * (row % 2))
    marked.texts = list(map(fold_white_space, marked.texts))
    assert giveaways(marked) == []
