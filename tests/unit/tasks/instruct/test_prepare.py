"""Instruction records divided and counted: one question stays on one side, and what is cut or left out is said."""

from dataclasses import replace

import pytest

from finetune.errors import DataError
from finetune.hub.assets import asset
from finetune.recipe import Recipe
from finetune.records import DataOrigin
from finetune.tasks.instruct.prepare import prepare
from finetune.tasks.instruct.prompts import pieces
from finetune.tasks.instruct.records import Instruction, Instructions, InstructionsCard, read_instructions
from finetune.tasks.instruct.settings import Instruct
from finetune.tokenizer import Tokenizer

BYTES, MINI = Tokenizer.of_bytes(), Tokenizer.from_directory(asset("weights", "mini"))
ORIGIN = DataOrigin("pairs.jsonl", "pairs.jsonl", "mine", "", "", "")


def test_prepare_splits_by_question_and_counts():
    source = read_instructions(asset("data", "instruct", "sample.jsonl"), Instruct())
    again = replace(source.records[5], row=1000, output="another answer")
    long = Instruction(1001, "Say", "", "é" * 400)
    source = Instructions([*source.records, again, long], ["line 9: 'output' is empty"])
    recipe = Recipe(instruct={"style": "chat"})
    records, found, card = prepare(recipe, source, MINI, 256, ORIGIN)
    rows = {name: {record.row for record in part} for name, part in records.items()}
    assert sum(map(len, rows.values())) == len(set.union(*rows.values())) == card.records == 427
    assert [name for name in rows if 5 in rows[name]] == [name for name in rows if 1000 in rows[name]]
    assert {name: part.records for name, part in card.splits.items()} == {n: len(r) for n, r in rows.items()}
    assert card.different_questions == 426 and card.malformed == 1 and card.style == "chat"
    assert all(card.splits[name].learnt_tokens == sum(part.loss_tokens()) for name, part in found.items())
    assert card.tokens.left_out == 1 and card.tokens.cut == 0 and card.tokens.max_length == 256
    assert all(any(part in note for note in card.notes) for part in ("1 record left out", "1 malformed"))
    assert card.malformed_records == ["line 9: 'output' is empty"] and card.left_out_rows == [1001]
    assert card.prompt == "User: What is asked?\nAssistant:"
    assert card.example == "".join(piece.text for piece in pieces(records["train"][0], recipe.instruct))
    assert card.name == "pairs.jsonl" and InstructionsCard.from_json(card.to_json(), "card.json") == card
    _, _, cut = prepare(Recipe(max_length=40), source, MINI, 256, ORIGIN)
    assert cut.tokens.cut == len(cut.cut_rows) > 300 and cut.tokens.max == 41


def test_prepare_refuses_too_few_records():
    same = Instructions([Instruction(i, "Count  to ten" if i % 2 else "count to TEN", "", "x") for i in range(30)], [])
    with pytest.raises(DataError, match="too few records.*got 1 different questions"):
        prepare(Recipe(), same, BYTES, 256, ORIGIN)
    apart = Instructions([Instruction(i, "x" * i + "y", "", "z" * 50) for i in range(30)], [])
    with pytest.raises(DataError, match="no record of the train split fits into 40 tokens"):
        prepare(Recipe(max_length=40), apart, BYTES, 256, ORIGIN)


def test_questions_with_other_digits_are_different():
    sums = [
        Instruction(i, f"What is {10 + i // 30} + {10 + i % 30}?", "", str(20 + i // 30 + i % 30)) for i in range(300)
    ]
    records, _, card = prepare(Recipe(), Instructions(sums, []), BYTES, 256, ORIGIN)
    assert card.different_questions == 300 and all(len(part) >= 30 for part in records.values())
    assert not any(counts.normalised for counts in card.overlap.values())


def test_prompts_truncated_for_generation_are_noted():
    """Prompts that leave no room for the answer's budget, and answers that are longer than it."""
    recipe = Recipe(instruct={"style": "plain", "max_new_tokens": 20})
    tests = [Instruction(i, "a" * 90 + str(i), "", "b" * (40 if i % 2 else 5)) for i in range(60)]
    records, _, card = prepare(recipe, Instructions(tests, []), BYTES, 140, ORIGIN)
    n, long = len(records["test"]), sum(record.output == "b" * 40 for record in records["test"])
    assert n > 3 and long > 0 and not any("truncated at the start for generation" in note for note in card.notes)
    assert any(note.startswith(f"{long} test answers are longer than the 20 tokens") for note in card.notes)
    longer = recipe.model_copy(update={"max_length": 140})
    records, _, card = prepare(longer, Instructions(tests, []), BYTES, 100, ORIGIN)
    shortened = [note for note in card.notes if "test prompts truncated at the start for generation" in note]
    assert shortened and shortened[0].startswith(f"{len(records['test'])} test prompts")
