"""A text is cut into words as the bundled sample is."""

import pytest

from finetune.hub.assets import asset
from finetune.tasks.tag.bundle import WORD
from finetune.tasks.tag.sentences import locate_sentences, read_sentences
from finetune.tasks.tag.settings import Tag


@pytest.mark.parametrize(
    "text, words",
    [
        ("Dr. Abara's co-op, in St. Ives.", "Dr. Abara 's co-op , in St. Ives ."),
        ("\u201cYes\u201d \u2013 no\u2026", "\u201c Yes \u201d \u2013 no \u2026"),
        ("Jean-Luc\u2019s 3.5 million", "Jean-Luc \u2019s 3.5 million"),
        ("can't AT&T", "can't AT&T"),
    ],
)
def test_punctuation_stands_alone(text, words):
    assert WORD.findall(text) == words.split()


def test_the_samples_words_are_its_own():
    assert asset("data", "tag", "sample.conll").is_file()
    found = read_sentences(locate_sentences("tag-sample"), Tag())
    assert not found.notes and not found.dropped
    plural = ("months'", "Ramblers'", "Farmers'", "Writers'")  # an apostrophe at the end is a word by itself to WORD
    odd = [word for own in found.sentences for word in own.words if WORD.findall(word) != [word] and word not in plural]
    assert not odd
