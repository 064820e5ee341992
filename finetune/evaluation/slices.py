"""Slices: groups of test rows on which a model is worse than on the others, and how sure that is."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.intervals import holm, wilson
from finetune.evaluation.results import Metric
from finetune.records import Record

LEAST_ROWS = 20  # of a slice, and of the rows outside; smaller ones are hidden
_LABELS = 20  # more labels, or values of a column, are no slices
_SAMPLED = 50_000  # training texts whose words are known
_RARE = 0.2  # share of a text's words that are new from which it is a text of rare words
_URL = re.compile(r"https?://|\bwww\.|\b[\w-]+\.(?:com|org|net|io|info|edu|gov|de|uk|co)\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Slice(Record):
    """A group of test rows. The interval is simultaneous over all slices; p_value is corrected by Holm's method."""

    name: str
    accuracy: Metric
    rest: float  # accuracy on all other test rows
    p_value: float

    @property
    def worse(self) -> bool:
        """Whether the model is worse there than elsewhere, beyond noise."""
        return self.accuracy.known_value() < self.rest and self.p_value < 0.05


@dataclass(frozen=True)
class Slices(Record):
    """The slices that are large enough, worst first, and how many are hidden."""

    shown: list[Slice]
    hidden: int


def measure_slices(members: Mapping[str, np.ndarray], correct: ArrayLike) -> Slices:
    """The accuracy of each slice against the rows outside.

    members: name -> bool (n,), the rows of a slice; correct: bool (n,). Fisher's exact test of errors inside and outside
    (Fisher 1935), Holm-corrected for the number of slices; Wilson intervals with Bonferroni's level.
    """
    from scipy.stats import fisher_exact, norm

    correct = np.asarray(correct, dtype=bool)
    kept = {name: inside for name, inside in members.items() if min(inside.sum(), (~inside).sum()) >= LEAST_ROWS}
    z = float(norm.ppf(1 - 0.025 / max(len(kept), 1)))
    found, p_values = [], []
    for name, inside in kept.items():
        n, right = int(inside.sum()), int(correct[inside].sum())
        outside, right_outside = len(correct) - n, int(correct[~inside].sum())
        p_values.append(float(fisher_exact([[right, n - right], [right_outside, outside - right_outside]]).pvalue))
        found.append((name, Metric(right / n, *wilson(right, n, z), n), right_outside / outside))
    shown = [Slice(*entry, p) for entry, p in zip(found, holm(p_values), strict=True)]
    shown.sort(key=lambda entry: (entry.accuracy.known_value() - entry.rest, entry.name))
    return Slices(shown, sum(bool(inside.any()) for inside in members.values()) - len(kept))


def text_slices(texts: Sequence[str], train_texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Slices by what a text looks like: bool (n,) each."""
    lengths = np.array([len(text) for text in texts])
    short, long = (int(np.quantile(lengths, share)) for share in (0.25, 0.75)) if len(texts) else (0, 0)
    step = max(1, len(train_texts) // _SAMPLED)
    known = {word for text in train_texts[::step] for word in _words(text)}
    return {
        f"short: at most {short:,} characters": lengths <= short,
        f"long: {long:,} characters or more": lengths >= long,
        "a digit": np.array([any(map(str.isdigit, text)) for text in texts], dtype=bool),
        "a URL": np.array([_URL.search(text) is not None for text in texts], dtype=bool),
        "a word in capitals": np.array([_shouts(text) for text in texts], dtype=bool),
        "rare words: a fifth or more are in no training text": np.array(
            [_new_share(text, known) >= _RARE for text in texts], dtype=bool
        ),
    }


def value_slices(what: str, values: Sequence[str]) -> dict[str, np.ndarray]:
    """A slice for each value of a column, such as the labels; none if there are too many values."""
    column = np.array(values, dtype=object)
    names = sorted(set(values))
    return {f"{what} {name}": column == name for name in names} if 1 < len(names) <= _LABELS else {}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _shouts(text: str) -> bool:
    return any(len(word) > 2 and word.isupper() for word in _WORD.findall(text))


def _new_share(text: str, known: set[str]) -> float:
    words = _words(text)
    return sum(word not in known for word in words) / len(words) if words else 1.0
