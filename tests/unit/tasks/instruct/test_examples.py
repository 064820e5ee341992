"""Tokenized records: what is learnt is the answer and its end and nothing else, however it is cut and read back."""

from dataclasses import replace

import pytest

from finetune.hub.assets import asset
from finetune.models.gpt import IGNORE
from finetune.run import Run
from finetune.tasks.instruct.examples import Tokens, conversation_ids, make_examples, prompt_room, tokenize
from finetune.tasks.instruct.prompts import prompt
from finetune.tasks.instruct.records import Dialogue, Instruction, Message
from finetune.tasks.instruct.settings import Instruct
from finetune.tasks.writing import load_tokens, save_tokens
from finetune.tokenizer import Tokenizer

BYTES, MINI = Tokenizer.of_bytes(), Tokenizer.from_directory(asset("weights", "mini"))
STYLES = [{"style": "alpaca"}, {"style": "plain"}, {"style": "chat"}, {"template": "é {instruction} ({input}):"}]
AWKWARD = [
    "🦊",
    "é",
    "\u0301 accent that joins",
    " leading",
    ")",
    "\n",
    "ends in a space ",
    "日本語",
    "\u200d🦊👩\u200d👩\u200d👧",
    "'s",
    "<|endoftext|>",
    "naïve café 🦊",
]


def talk(*turns, row=0):
    return Dialogue(row, [Message(("user", "assistant")[i % 2], turn) for i, turn in enumerate(turns)])


def read(records, tokenizer, settings, max_length):
    """The examples of records, and the inputs and targets of each."""
    found = make_examples(records, tokenize(records, tokenizer, settings), max_length, settings.loss_on)
    return found, [found.example(row) for row in range(len(found.rows))]


def awkward_pairs():
    return [
        Instruction(i, before, given, after)
        for i, (before, after) in enumerate((before, after) for before in AWKWARD for after in AWKWARD)
        for given in ("", before)
    ][::3]


@pytest.mark.parametrize("tokenizer", [BYTES, MINI], ids=["bytes", "bpe"])
@pytest.mark.parametrize("settings", STYLES, ids=lambda settings: next(iter(settings.values()))[:8])
def test_supervised_tokens_are_exactly_the_answer_and_its_end(settings, tokenizer):
    chosen, records = Instruct(**settings), awkward_pairs()
    found, examples = read(records, tokenizer, chosen, max_length=500)
    assert found.rows == [record.row for record in records] and not found.cut and not found.left_out
    crossing = 0
    for record, (inputs, targets) in zip(records, examples, strict=True):
        learnt = [target for target in targets if target != IGNORE]
        asked = "".join(piece.text for piece in prompt(record, chosen))
        lead = " " if settings.get("style") == "chat" and not record.output.startswith(" ") else ""
        answer = lead + record.output
        assert learnt[-1] == tokenizer.end_of_text and tokenizer.end_of_text not in learnt[:-1]
        assert tokenizer.decode_bytes(learnt[:-1]) == answer.encode()
        assert inputs[: -len(learnt) + 1] == tokenizer.encode(asked)  # what is not learnt is the prompt, whole
        assert inputs[1:] == [
            token if target == IGNORE else target for token, target in zip(inputs[1:], targets[:-1], strict=True)
        ]
        crossing += tokenizer.encode(asked + answer) != inputs[: -len(learnt) + 1] + learnt[:-1]
    colon = "style" not in settings or settings["style"] == "alpaca"
    assert (crossing > 0) == (tokenizer is MINI and colon), "as one text, ':' and ')' are a token"


def test_every_turn_of_the_assistant_is_supervised():
    record = talk("Hi 🦊", "Hello é", "Where?", "Here.", "Bye", "日本")
    record.messages.insert(0, Message("system", "Be kind."))
    found, [(_, targets)] = read([record], MINI, Instruct(style="chat"), 256)
    learnt = [target for target in targets if target != IGNORE]
    answers, end = [MINI.encode(text) for text in (" Hello é", " Here.", " 日本")], [MINI.end_of_text]
    assert learnt == answers[0] + end + answers[1] + end + answers[2] + end
    _, targets = replace(found, learns="words").example(0)
    assert [target for target in targets if target != IGNORE] == sum(answers, [])


def test_loss_on_all_supervises_the_whole_text():
    record = Instruction(0, "Say é", "", "🦊")
    (answer_only, [(read_too, _)]), (whole, [(inputs, targets)]) = (
        read([record], BYTES, Instruct(style="plain", loss_on=on), 99) for on in ("answer", "all")
    )
    text = [*"Say é\n🦊".encode(), BYTES.end_of_text]
    assert [BYTES.decode_bytes([token]) for token in inputs] == [bytes([b]) for b in text[:-1]]
    assert targets == inputs[1:] + [BYTES.end_of_text] and IGNORE not in targets
    assert read_too == inputs and answer_only.loss_tokens() == [5] and whole.loss_tokens() == [len(text) - 1]


def test_a_long_prompt_is_truncated_at_the_start_and_the_answer_never():
    record, settings = Instruction(3, "abcdefgh", "", "xyz"), Instruct(style="plain")  # 9 + 3 tokens and the end
    for max_length in range(1, 16):
        found, examples = read([record], BYTES, settings, max_length)
        if max_length < 4:  # the answer, its end and one token before them
            assert (found.rows, found.left_out, found.cut, examples) == ([], [3], [], [])
            continue
        [(inputs, targets)] = examples
        assert BYTES.decode_bytes([t for t in targets if t != IGNORE]) == b"xyz"
        kept = BYTES.decode_bytes(inputs)
        assert "abcdefgh\nxyz".endswith(kept.decode()) and len(kept) == min(max_length, 12)
        assert found.cut == ([3] if max_length < 12 else []) and not found.left_out


def test_a_truncated_earlier_answer_is_input_but_not_supervised():
    record, settings = talk("a", "bcdef", "g", "h"), Instruct(style="chat")
    size = read([record], BYTES, settings, 99)[0].lengths()[0]
    for max_length in range(4, size + 1):
        _, [(_, targets)] = read([record], BYTES, settings, max_length)
        learnt = BYTES.decode_bytes([t for t in targets if t != IGNORE]).decode()
        prompt_left = max_length > size - len("User: a\nAssistant:")
        assert learnt == (" bcdef h" if prompt_left else " h"), max_length


@pytest.mark.parametrize("learns", ["answer", "all", "words"])
def test_counts_are_those_of_the_examples_and_survive_a_file(tmp_path, learns):
    records = [
        talk(*("word " * (1 + (row + turn) % 6) for turn in range(2 + 2 * (row % 3))), row=row + 7) for row in range(30)
    ]
    made = make_examples(records, tokenize(records, BYTES, Instruct(style="chat")), 24, learns)
    run = Run(tmp_path)
    run.path("data").mkdir()
    save_tokens(run, {"train": made})
    found = make_examples(records, load_tokens(run, "train", Tokens), 24, learns)
    examples = [found.example(row) for row in range(len(found.rows))]
    assert examples == [made.example(row) for row in range(len(made.rows))] and found.cut and found.left_out
    assert found.lengths() == [len(inputs) for inputs, _ in examples] and max(found.lengths()) == 24
    assert found.loss_tokens() == [sum(target != IGNORE for target in targets) for _, targets in examples]
    some = found.take([5, 0])
    assert some.rows == [found.rows[5], found.rows[0]] and [some.example(0), some.example(1)] == [
        examples[5],
        examples[0],
    ]


def test_prompts_are_everything_before_the_last_answer_truncated_at_the_start():
    records = [talk("a", "b", "longer words", "c", row=4), talk("x" * 100, "y", row=5), talk("q", "z" * 99, row=6)]
    settings = Instruct(style="chat", max_new_tokens=9)
    found = make_examples(records, tokenize(records, BYTES, settings), 64, "answer")
    room = prompt_room(64, settings)
    whole = [conversation_ids(record, BYTES, settings) for record in records[:2]]
    assert found.rows == [4, 5] and room == 55 and found.prompts(room) == [whole[0], whole[1][-55:]]
    assert prompt_room(64, Instruct(max_new_tokens=60)) == 32  # half of the context at least


def test_many_records_are_tokenized_in_their_order():
    records = [Instruction(row, f"ask {row}", "", f"answer {row}") for row in range(2500)]
    tokens = tokenize(records, BYTES, Instruct(style="plain"))
    assert [BYTES.decode(ids[:-1]) for ids in tokens.text] == [f"ask {row}\nanswer {row}" for row in range(2500)]
    assert list(tokens.pieces) == [[len(f"ask {row}\n"), len(f"answer {row}") + 1] for row in range(2500)]
