"""Text from tokens as they come: no broken characters, nothing of a stop string."""

import random

import pytest

from finetune.errors import RecipeError
from finetune.models.text_stream import StopStrings, TextStream
from finetune.tokenizer import Tokenizer

BYTES = Tokenizer.of_bytes()
WORDS = ["a", "ab", "b", "東", "\n", "é👩", "a東b", "ba"]


def cases(count: int = 300) -> list[tuple[str, list[str]]]:
    """Seeded texts, and strings of which many are in them."""
    draw = random.Random(5)
    return [
        (
            "".join(draw.choices(WORDS, k=draw.randint(0, 9))),
            ["".join(draw.choices(WORDS, k=draw.randint(1, 2))) for _ in range(draw.randint(0, 3))],
        )
        for _ in range(count)
    ]


def pieces(ids: list[int], stop=()) -> list[str]:
    stream = TextStream(BYTES, stop)
    return [*(stream.push(token) for token in ids), stream.close()]


def test_whole_characters_come_and_add_up_to_the_text():
    for text, _ in cases():
        found = pieces(BYTES.encode(text))
        assert "".join(found) == text and all(len(piece) <= 1 for piece in found)


def test_a_character_comes_with_its_last_byte():
    assert pieces(BYTES.encode("é東👩")) == ["", "é", "", "", "東", "", "", "", "👩", ""]
    assert pieces(BYTES.encode("a東")[:-1])[-1] == "\N{REPLACEMENT CHARACTER}"  # the text ends within a character
    assert pieces([BYTES.end_of_text, *BYTES.encode("a")]) == ["", "a", ""]


def test_the_text_ends_before_the_first_stop_string():
    stopped = 0
    for text, stop in cases():
        done = min((text.find(string) + len(string) for string in stop if string in text), default=None)
        at = len(text)
        if done is not None:  # the string that is complete first ends the text
            at, stopped = min(text.find(string) for string in stop if string in text[:done]), stopped + 1
        assert "".join(pieces(BYTES.encode(text), stop)) == text[:at], (text, stop)
    assert 50 < stopped < 250


def test_what_may_begin_a_stop_string_is_held_back():
    assert pieces(BYTES.encode("a<<b<<<c"), ["<<<"]) == ["a", "", "", "<<b", "", "", "", "", ""]
    assert pieces(BYTES.encode("a<<"), ["<<<"]) == ["a", "", "", "<<"]


def test_stop_strings_are_found_when_they_are_complete():
    for text, strings in cases():
        stop, ids = StopStrings(BYTES, strings), BYTES.encode(text)
        found = [n for n in range(1, len(ids) + 1) if stop(ids[:n])]
        complete = [
            n for n in range(1, len(ids) + 1) if any(string.encode() in text.encode()[:n] for string in strings)
        ]
        assert found[:1] == complete[:1], (text, strings)


def test_an_empty_stop_string_is_refused():
    with pytest.raises(RecipeError, match="a stop string is empty"):
        StopStrings(BYTES, ["a", ""])
