"""Prompts: the words of each style, templates that are filled as plain text, and what a style refuses."""

from dataclasses import replace

import pytest

from finetune.errors import DataError, RecipeError
from finetune.tasks.instruct.prompts import answer, fill, markers, pieces, prompt, question
from finetune.tasks.instruct.records import Dialogue, Instruction, Message
from finetune.tasks.instruct.settings import Instruct

PAIR = Instruction(4, "Name the colour.", "a red car", "red")
BARE = replace(PAIR, input="")
DIALOGUE = Dialogue(
    7,
    [
        Message("system", "Be brief."),
        Message("user", "Hi!"),
        Message("assistant", "Hello."),
        Message("user", "2 + 2?"),
        Message("assistant", "4"),
    ],
)
SINGLE = Dialogue(8, DIALOGUE.messages[1:3])


def text(record, **settings):
    """The whole text, an answer between angle brackets."""
    return "".join(f"<{piece.text}>" if piece.answer else piece.text for piece in pieces(record, Instruct(**settings)))


def test_alpaca_prompts_equal_stanfords():
    assert text(PAIR) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName the colour.\n\n### Input:\na red car\n\n### Response:<red>"
    )
    assert text(BARE) == (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName the colour.\n\n### Response:<red>"
    )


def test_plain_and_chat():
    assert text(PAIR, style="plain") == "Name the colour.\na red car\n<red>"
    assert text(BARE, style="plain") == "Name the colour.\n<red>"
    assert text(PAIR, style="chat") == "User: Name the colour.\na red car\nAssistant:< red>"
    assert text(DIALOGUE, style="chat") == (
        "System: Be brief.\nUser: Hi!\nAssistant:< Hello.>\nUser: 2 + 2?\nAssistant:< 4>"
    )


def test_an_answer_that_begins_with_a_blank_gets_no_second_one():
    assert text(replace(SINGLE, messages=[SINGLE.messages[0], Message("assistant", " Hello.")]), style="chat") == (
        "User: Hi!\nAssistant:< Hello.>"
    )


def test_a_single_exchange_fits_every_style():
    assert text(SINGLE, style="plain") == "Hi!\n<Hello.>" and text(SINGLE).endswith("Hi!\n\n### Response:<Hello.>")


@pytest.mark.parametrize(
    "settings, said",
    [({}, "style alpaca"), ({"style": "plain"}, "style plain"), ({"template": "{instruction}"}, "a template")],
)
def test_single_question_styles_refuse_dialogues(settings, said):
    with pytest.raises(DataError, match=f"record 7 has a system message; {said} takes one.*style=chat"):
        pieces(DIALOGUE, Instruct(**settings))
    with pytest.raises(DataError, match="record 7 has 2 questions"):
        pieces(Dialogue(7, DIALOGUE.messages[1:]), Instruct(**settings))


def test_a_prompt_is_everything_before_the_last_answer():
    for record in (PAIR, BARE, DIALOGUE, SINGLE):
        settings = Instruct(style="chat")
        assert prompt(record, settings) == pieces(record, settings)[:-1]
    asked = Dialogue(0, DIALOGUE.messages[:-1])  # an answer that is still to come
    assert prompt(asked, Instruct(style="chat")) == prompt(DIALOGUE, Instruct(style="chat"))
    assert prompt(replace(BARE, output=""), Instruct()) == prompt(BARE, Instruct())


def test_question_and_answer_do_not_depend_on_the_style():
    assert question(PAIR) == "Name the colour.\na red car" and answer(PAIR) == "red"
    assert question(DIALOGUE) == "Be brief.\nHi!\nHello.\n2 + 2?" and answer(DIALOGUE) == "4"


def test_a_template_is_filled_as_plain_text():
    sly = replace(PAIR, instruction="{input} {output} \\1 %s {0.__class__}", input="{instruction}")
    assert text(sly, template="Q {instruction} / {input} A:") == (
        "Q {input} {output} \\1 %s {0.__class__} / {instruction} A:<red>"
    )
    assert text(BARE, template="{instruction}{instruction}[{input}]:", style="chat") == (
        "Name the colour.Name the colour.[]:<red>"
    )
    assert fill("a { b\n} {x}}", {"x": "1"}) == "a { b\n} 1}"


@pytest.mark.parametrize(
    "template, got",
    [
        ("{instruction} {answer}", r"\{answer\}"),
        ("{instruction.__class__}", r"\{instruction.__class__\}"),
        ("{instruction!r}", r"\{instruction!r\}"),
        ("{instruction} {0} {}", r"\{0\}, \{\}"),
        ("{Instruction}", r"\{Instruction\}"),
        ("{instruction} {output}", r"\{output\}"),
    ],
)
def test_an_unknown_field_is_an_error_with_the_known_ones(template, got):
    with pytest.raises(RecipeError, match=rf"got {got}; known: \{{instruction\}} and \{{input\}}"):
        pieces(PAIR, Instruct(template=template))


def test_a_template_without_a_needed_field_raises():
    with pytest.raises(RecipeError, match="has no {instruction}"):
        pieces(PAIR, Instruct(template="{input}"))
    with pytest.raises(DataError, match="record 4 has an input, but instruct.template has no field for it"):
        pieces(PAIR, Instruct(template="{instruction}"))
    assert text(BARE, template="{instruction}") == "Name the colour.<red>"


@pytest.mark.parametrize(
    "settings",
    [
        {"style": "alpaca"},
        {"style": "chat"},
        {"style": "plain"},
        {"template": "Q é ({input}) {instruction}\n### Answer now:\n"},
    ],
)
def test_markers_begin_lines_of_prompts_but_not_of_answers(settings):
    found = markers(Instruct(**settings))
    asked = "".join(piece.text for piece in prompt(PAIR, Instruct(**settings)))
    said = [line.strip() for line in asked.splitlines()]
    assert any(line.startswith(found) for line in said) == (settings.get("style") != "plain")
    assert not "red".startswith(found) and not any(PAIR.instruction.startswith(marker) for marker in found)
