"""Slices: subsets of the test rows on which a model is worse than on the others, with the significance of that."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.intervals import holm, wilson
from finetune.evaluation.results import Metric
from finetune.records import Record

LEAST_ROWS = 20  # in a slice, and outside of it; smaller slices are hidden
_LABELS = 20  # most labels, or values of a column, that become slices
_SAMPLED = 50_000  # training texts whose words count as known
_RARE = 0.2  # share of unknown words, from which a text has rare words
_URL = re.compile(r"https?://|\bwww\.|\b[\w-]+\.(?:com|org|net|io|info|edu|gov|de|uk|co)\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Slice(Record):
    """A subset of the test rows. The interval is simultaneous over all slices; p_value is corrected by Holm's method."""

    name: str
    score: Metric
    rest: float  # the score on all other test rows
    p_value: float

    @property
    def worse(self) -> bool:
        """Whether the model is worse there than elsewhere, beyond noise."""
        return self.score.known_value() < self.rest and self.p_value < 0.05


@dataclass(frozen=True)
class Slices(Record):
    """The slices that are large enough, worst first, and how many are hidden. metric: higher is better."""

    shown: list[Slice]
    hidden: int
    metric: str = "accuracy"
    share: bool = True  # whether each row scores 0 or 1


def measure_slices(
    members: Mapping[str, np.ndarray], scores: ArrayLike, metric: str = "accuracy", share: bool = True
) -> Slices:
    """The mean score of each slice against the rows outside.

    members: name -> bool (n,), the rows of a slice; scores: (n,), 0 or 1 if `share`; NaN: the metric leaves the row out.
    Shares: Fisher's exact test of errors inside and outside (Fisher 1935) and Wilson intervals. Other scores: Welch's
    test of the means (Welch 1947, Biometrika 34) and Student's intervals. p values are Holm-corrected for the number of
    slices, and intervals have Bonferroni's level.
    """
    values = np.asarray(scores, dtype=float)
    known = ~np.isnan(values)
    values = values[known]
    parts = {name: inside[known] for name, inside in members.items()}
    kept = {name: inside for name, inside in parts.items() if min(inside.sum(), (~inside).sum()) >= LEAST_ROWS}
    level = 1 - 0.025 / max(len(kept), 1)
    judge = _judge_shares if share else _judge_means
    judged = [judge(values[inside], values[~inside], level) for inside in kept.values()]
    corrected = holm([p for _, p in judged])
    shown = [
        Slice(name, own, float(values[~inside].mean()), p)
        for (name, inside), (own, _), p in zip(kept.items(), judged, corrected, strict=True)
    ]
    shown.sort(key=lambda entry: (entry.score.known_value() - entry.rest, entry.name))
    return Slices(shown, sum(bool(inside.any()) for inside in parts.values()) - len(kept), metric, share)


def _judge_shares(inside: np.ndarray, outside: np.ndarray, level: float) -> tuple[Metric, float]:
    """The share inside with its interval, and Fisher's p."""
    from scipy.stats import fisher_exact, norm

    n, right = len(inside), int(inside.sum())
    table = [[right, n - right], [int(outside.sum()), len(outside) - int(outside.sum())]]
    return Metric(right / n, *wilson(right, n, float(norm.ppf(level))), n), float(fisher_exact(table).pvalue)


def _judge_means(inside: np.ndarray, outside: np.ndarray, level: float) -> tuple[Metric, float]:
    """The mean inside with its interval, and Welch's p."""
    from scipy.stats import t, ttest_ind

    n, mean = len(inside), float(inside.mean())
    half = float(t.ppf(level, n - 1) * inside.std(ddof=1) / np.sqrt(n))
    if not inside.std() and not outside.std():  # the test is undefined without variance
        return Metric(mean, mean, mean, n), float(mean == outside.mean())
    return Metric(mean, mean - half, mean + half, n), float(ttest_ind(inside, outside, equal_var=False).pvalue)


def text_slices(texts: Sequence[str], train_texts: Sequence[str], what: str = "") -> dict[str, np.ndarray]:
    """Slices by the form of a text: bool (n,) each. what: a name for the text, if rows have other texts, too."""
    known = _known_words(train_texts)
    found = length_slices(texts) | {
        "a digit": np.array([any(map(str.isdigit, text)) for text in texts], dtype=bool),
        "a URL": np.array([_URL.search(text) is not None for text in texts], dtype=bool),
        "a word in capitals": np.array([_shouts(text) for text in texts], dtype=bool),
        "rare words: a fifth or more of the words are in no training text": np.array(
            [_new_share(text, known) >= _RARE for text in texts], dtype=bool
        ),
    }
    return {f"{what}: {name}": inside for name, inside in found.items()} if what else found


def length_slices(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The shortest and the longest quarter of the texts: bool (n,) each."""
    lengths = np.array([len(text) for text in texts])
    short, long = (int(np.quantile(lengths, share)) for share in (0.25, 0.75)) if len(texts) else (0, 0)
    return {
        f"short: at most {short:,} characters": lengths <= short,
        f"long: {long:,} characters or more": lengths >= long,
    }


def value_slices(what: str, values: Sequence[str]) -> dict[str, np.ndarray]:
    """A slice for each value of a column, such as the labels; none if there are too many values."""
    column = np.array(values, dtype=object)
    names = sorted(set(values))
    return {f"{what} {name}": column == name for name in names} if 1 < len(names) <= _LABELS else {}


def _known_words(texts: Sequence[str]) -> set[str]:
    step = max(1, len(texts) // _SAMPLED)
    return {word for text in texts[::step] for word in _words(text)}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _shouts(text: str) -> bool:
    return any(len(word) > 2 and word.isupper() for word in _WORD.findall(text))


def _new_share(text: str, known: set[str]) -> float:
    words = _words(text)
    return sum(word not in known for word in words) / len(words) if words else 1.0
