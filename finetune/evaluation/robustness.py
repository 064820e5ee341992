"""Small label-preserving changes of a text, and how often each of them flips a decision."""

import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.evaluation.intervals import wilson
from finetune.evaluation.results import Metric
from finetune.records import Record

_INSIDE = re.compile(r"[^\W\d_]{4,}")  # words long enough for a typo
_QUOTES = str.maketrans(
    {"'": "\N{RIGHT SINGLE QUOTATION MARK}", '"': "\N{RIGHT DOUBLE QUOTATION MARK}", "-": "\N{EN DASH}"}
)


@dataclass(frozen=True)
class Flips(Record):
    """A change, and the share of flipped decisions among the rows that it changes; undefined if it changes no row."""

    change: str
    share: Metric


def _typo(text: str, edit: Callable[[str, int], str]) -> str:
    """The text with an edit inside one word, always the same; the text itself if no word is long enough."""
    words = list(_INSIDE.finditer(text))
    if not words:
        return text
    chance = random.Random(zlib.crc32(text.encode("utf-8", "replace")))
    word = chance.choice(words)
    at = chance.randrange(1, len(word[0]) - 2)
    return text[: word.start()] + edit(word[0], at) + text[word.end() :]


CHANGES: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "upper case": str.upper,
    "no punctuation": lambda text: re.sub(r"[^\w\s]", "", text),
    "a full stop at the end": lambda text: text.rstrip(".") + ".",
    "two letters of a word swapped": lambda text: _typo(
        text, lambda word, at: word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    ),
    "a letter of a word missing": lambda text: _typo(text, lambda word, at: word[:at] + word[at + 1 :]),
    "double spaces": lambda text: re.sub(r"(?<=\S) (?=\S)", "  ", text),
    "typographic quotes and dashes": lambda text: text.translate(_QUOTES),
}


def changed_texts(texts: Sequence[str], fold: Callable[[str], str]) -> dict[str, dict[int, str]]:
    """Change -> index of a text -> the changed text, if it differs and is not empty. fold: the model's normalisation."""
    found: dict[str, dict[int, str]] = {}
    for name, change in CHANGES.items():
        own = {at: fold(change(text)) for at, text in enumerate(texts)}
        found[name] = {at: text for at, text in own.items() if text.strip() and text != texts[at]}
    return found


def flips(change: str, before: np.ndarray, after: np.ndarray) -> Flips:
    """How often decisions (n,) differ, with Wilson's interval."""
    n, flipped = len(before), int((before != after).sum())
    if not n:
        return Flips(change, Metric(None, None, None, 0, "changes no text"))
    return Flips(change, Metric(flipped / n, *wilson(flipped, n), n))
