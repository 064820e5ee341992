"""Pairs divided and counted: one source stays on one side, and what is cut or left out is said."""

import pytest

from finetune.errors import DataError
from finetune.recipe import Recipe, Split
from finetune.records import DataOrigin
from finetune.tasks.seq2seq.pairs import Pairs, PairsCard, TextPair
from finetune.tasks.seq2seq.prepare import prepare
from finetune.tasks.seq2seq.settings import Seq2Seq
from finetune.tokenizer import Tokenizer

BYTES = Tokenizer.of_bytes()
ORIGIN = DataOrigin("pairs.tsv", "pairs.tsv", "mine", "", "", "")


def test_sources_that_differ_by_digits_are_others_and_by_case_are_not():
    numbers = Pairs(("a", "b"), [], [TextPair(i, f"{i:,}", f"number {i}") for i in range(1000, 1100)])
    recipe = Recipe(task="seq2seq", split=Split(val_fraction=0.1, test_fraction=0.2))
    records, _, card = prepare(recipe, numbers, {}, BYTES, 64, ORIGIN)
    assert {name: len(part) for name, part in records.items()} == {"train": 70, "val": 10, "test": 20}
    assert card.different_sources == 100 and not card.overlap["test_in_train"].normalised
    cases = Pairs(
        ("a", "b"),
        [],
        [
            TextPair(i, text, "t")
            for i, text in enumerate(
                own for word in map(chr, range(97, 123)) for own in (f"{word} x", f"{word.upper()}  X")
            )
        ],
    )
    records, *_ = prepare(recipe, cases, {}, BYTES, 64, ORIGIN)
    sides = {own.row: name for name, part in records.items() for own in part}
    assert all(sides[row] == sides[row + 1] for row in range(0, 52, 2)) and set(sides.values()) == {*records}


def test_what_cannot_be_split_or_does_not_fit_is_refused():
    recipe = Recipe(task="seq2seq")
    with pytest.raises(DataError, match="too few pairs: none for the"):
        prepare(recipe, Pairs(("a", "b"), [], [TextPair(i, "same", "t") for i in range(9)]), {}, BYTES, 64, ORIGIN)
    with pytest.raises(DataError, match="no pair of the train split fits into 3 tokens"):
        many = [TextPair(i, f"s{i}", "long target") for i in range(30)]
        prepare(recipe, Pairs(("a", "b"), [], many), {}, BYTES, 3, ORIGIN)


def test_a_source_that_leaves_no_room_to_write_is_counted():
    pairs = Pairs(("a", "b"), [], [TextPair(i, f"{i:02}" + "x" * 40, "t") for i in range(40)])
    for new, said in ((8, 0), (40, 1)):
        recipe = Recipe(task="seq2seq", seq2seq=Seq2Seq(family="decoder", max_new_tokens=new))
        *_, card = prepare(recipe, pairs, {}, BYTES, 64, ORIGIN)
        assert sum("read without their end where targets are written" in note for note in card.notes) == said


def test_files_of_their_own_stay_whole_and_their_dropped_rows_are_counted_too():
    pairs = Pairs(("a", "b"), [], [TextPair(i, f"s{i}", "t") for i in range(20)], {"empty target": [20]})
    dropped = {"empty target": [3], "empty source": [4]}
    given = Pairs(("a", "b"), [], [TextPair(i, f"s{i}", "t") for i in range(3)], dropped)
    records, _, card = prepare(Recipe(task="seq2seq"), pairs, {"test": given}, BYTES, 64, ORIGIN)
    assert records["test"] == given.records and len(records["train"]) + len(records["val"]) == 20
    assert card.given == ["test"] and card.records == 23 and card.dropped == {"empty target": 2, "empty source": 1}
    assert card.dropped_rows == {"empty target": [20, 3], "empty source": [4]}
    assert pairs.dropped_rows == {"empty target": [20]}
    assert sum(card.overlap[name].exact for name in ("test_in_train", "test_in_val")) == 3
    assert any("test sources also occur in train too" in note for note in card.notes)
    assert PairsCard.from_json(card.to_json(), "card.json") == card
