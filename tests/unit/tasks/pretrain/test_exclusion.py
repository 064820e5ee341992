"""A document that holds a row of an evaluation set is found, and one that shares a phrase with it is not."""

import json

import pytest

from finetune.errors import DataError
from finetune.tasks.pretrain.exclusion import Exclusion, evaluation_files, evaluation_rows

ROW = "the quick brown fox jumps over the lazy dog while nine wise owls look on"  # 15 words, 8 grams of 8
WORDS = ROW.split()


@pytest.mark.parametrize(
    "text, held",
    [
        (ROW, True),
        (f"He wrote: {ROW}, and left.", True),
        ("THE QUICK, brown fox -- jumps\nover the lazy dog!", False),  # 2 grams of 8
        (" ".join(WORDS[:11]), True),  # 4 of 8
        (" ".join(WORDS[:10]), False),  # 3 of 8
        (" ".join(reversed(WORDS)), False),
        ("", False),
    ],
)
def test_half_of_a_rows_grams_is_enough_and_less_is_not(text, held):
    assert Exclusion([ROW]).holds(text) == held


def test_grams_of_different_rows_do_not_add_up():
    other = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    text = " ".join(WORDS[:10]) + " and " + " ".join(other.split()[:10])
    assert not Exclusion([ROW, other]).holds(text)
    assert Exclusion([ROW, other, " ".join(WORDS[:9])]).holds(text)  # a shorter row with the same beginning


def test_a_row_that_repeats_itself_counts_each_gram_once():
    assert Exclusion(["spam " * 20]).holds("spam " * 8)
    assert not Exclusion(["spam " * 20]).holds("spam " * 7)


@pytest.mark.parametrize(
    "text, held",
    [
        ("Hi!\nCall me later, please.\nBye", True),
        ("A: call me LATER please", True),
        ("call me later please", True),
        ("Do call me later, please.", False),
        ("call me later\nplease", False),
    ],
)
def test_a_short_row_matches_a_whole_line(text, held):
    assert Exclusion(["Call me later please"]).holds(text) == held


def test_rows_of_one_or_two_words_are_ignored():
    found = Exclusion(["ok", "Good morning!", "", "..."])
    assert not len(found) and not found.holds("ok\nGood morning!\n")


def test_rows_are_read_from_tables_json_and_text(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"one, two\nthree",ham\n')
    (tmp_path / "b.json").write_text(json.dumps([{"instruction": "add them", "turns": [{"content": "one and two"}]}]))
    (tmp_path / "c.jsonl").write_text('{"source": "first", "target": "second"}\n\n')
    (tmp_path / "d").write_text("spam\twin a prize\nham\tsee you\n")
    rows = [row.strip() for file in evaluation_files([str(tmp_path)]) for row in evaluation_rows(file)]
    assert {"one, two\nthree", "add them", "one and two", "first", "second", "win a prize", "see you"} <= set(rows)


def test_missing_and_unreadable_files_raise(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        evaluation_files([str(tmp_path / "none")])
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match="not a readable evaluation set"):
        list(evaluation_rows(tmp_path / "broken.json"))
