"""Text from tokens as they come: no broken characters, nothing of a stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import RecipeError
from finetune.models.text_stream import StopStrings, TextStream
from finetune.tokenizer import Tokenizer

BYTES = Tokenizer.of_bytes()


def pieces(ids: list[int], stop=()) -> list[str]:
    stream = TextStream(BYTES, stop)
    return [*(stream.push(token) for token in ids), stream.close()]


@given(st.text(max_size=12))
def test_whole_characters_come_and_add_up_to_the_text(text):
    found = pieces(BYTES.encode(text))
    assert "".join(found) == text and all(len(piece) <= 1 for piece in found)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(found) or "\N{REPLACEMENT CHARACTER}" in text


def test_a_character_comes_with_its_last_byte():
    assert pieces(BYTES.encode("é東👩")) == ["", "é", "", "", "東", "", "", "", "👩", ""]
    assert pieces(BYTES.encode("a東")[:-1])[-1] == "\N{REPLACEMENT CHARACTER}"  # the text ends within a character
    assert pieces([BYTES.end_of_text, *BYTES.encode("a")]) == ["", "a", ""]


@given(st.text("ab東\n", max_size=20), st.lists(st.text("ab東\n", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string(text, stop):
    ids = BYTES.encode(text)
    at = min((text.find(string) for string in stop if string in text), default=len(text))
    if any(string in text for string in stop):  # the one that is complete first ends the text
        done = min(text.find(string) + len(string) for string in stop if string in text)
        at = min(text[:done].find(string) for string in stop if string in text[:done])
    assert "".join(pieces(ids, stop)) == text[:at]


def test_what_may_begin_a_stop_string_is_held_back():
    assert pieces(BYTES.encode("a<<b<<<c"), ["<<<"]) == ["a", "", "", "<<b", "", "", "", "", ""]
    assert pieces(BYTES.encode("a<<"), ["<<<"]) == ["a", "", "", "<<"]


@given(st.text("ab東\n", max_size=20), st.lists(st.text("ab東\n", min_size=1, max_size=4), max_size=3))
def test_stop_strings_are_found_when_they_are_complete(text, strings):
    stop, ids = StopStrings(BYTES, strings), BYTES.encode(text)
    found = [n for n in range(1, len(ids) + 1) if stop(ids[:n])]
    complete = [n for n in range(1, len(ids) + 1)
                if any(string.encode() in bytes(ids_to_bytes(ids[:n])) for string in strings)]
    assert found[:1] == complete[:1]


def ids_to_bytes(ids: list[int]) -> bytes:
    return b"".join(BYTES.decode_bytes([token]) for token in ids)


def test_an_empty_stop_string_is_refused():
    with pytest.raises(RecipeError, match="a stop string is empty"):
        StopStrings(BYTES, ["a", ""])
