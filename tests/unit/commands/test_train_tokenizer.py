"""A vocabulary of one's own: GPT-2's format, the same ids as the library that trained it."""

import json

import pytest

from finetune.errors import RecipeError
from finetune.tokenizer import SPECIAL_TOKENS, train_vocabulary

TEXTS = ["the cat sat on the mat, the cat's hat", "It'll rain at 10:30 today... won't it?", "naïve café 漢字 🎉"] * 30


def test_ids_equal_those_of_tokenizers_and_round_trip():
    from tokenizers import Tokenizer, models, pre_tokenizers

    ours = train_vocabulary(TEXTS, 400)
    merges = [tuple(line.split(" ")) for line in ours.merges_txt.splitlines() if not line.startswith("#")]
    theirs = Tokenizer(models.BPE(json.loads(ours.vocab_json), merges))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    for text in [*TEXTS, "unseen Ω words\n\n  and\tspaces  ", "<|endoftext|>"]:
        assert ours.encode(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == text


def test_special_tokens_stand_last():
    tokenizer = train_vocabulary(TEXTS, 300)
    assert tokenizer.vocab_size == 300
    assert [tokenizer.special_tokens[token] for token in SPECIAL_TOKENS] == [296, 297, 298, 299]
    assert tokenizer.end_of_text == 299


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(RecipeError, match="too small"):
        train_vocabulary(TEXTS, 260)
