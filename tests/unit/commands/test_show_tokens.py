"""``tokenizer show`` tells what the tokenizer does."""

import pytest

from finetune.checkpoints.sources import load
from finetune.commands.show_tokens import show_tokens
from finetune.errors import RecipeError
from finetune.tokenizer import split_pieces


def test_ids_bytes_and_merges_are_the_tokenizers():
    _, tokenizer = load("mini")
    text = "The rivers 日 flooded it's 1912!"
    lines = show_tokens(text, "mini")
    ids = tokenizer.encode(text)
    assert lines[0].startswith(f"{len(ids)} tokens of {len(text.encode())} bytes")
    for place, token in enumerate(ids):
        assert lines[3 + place].split()[:2] == [str(place), str(token)]
        assert tokenizer.decode_bytes([token]).hex(" ") in lines[3 + place]
    at = lines.index("␣rivers")
    assert lines[at + 1].split()[1:] == ["␣", "r", "i", "v", "e", "r", "s"]
    assert lines[at + 1 + len(tokenizer.merge_steps(" rivers")) - 1].split()[2:] == ["␣r", "ivers"]
    assert any(line.endswith(r"␣ \xe6 \x97 \xa5") for line in lines)


@pytest.mark.parametrize("text", ["The rivers of the bank", "naïve 日本 it's   12\n\tend", "aaaaaaa", " "])
def test_the_last_step_of_every_piece_is_its_tokens(text):
    _, tokenizer = load("mini")
    parts = [part for piece in split_pieces(text) for part in tokenizer.merge_steps(piece)[-1]]
    assert parts == [tokenizer.decode_bytes([token]) for token in tokenizer.encode(text)]


def test_an_empty_text_is_refused():
    with pytest.raises(RecipeError, match="the text is empty"):
        show_tokens("", "mini")
