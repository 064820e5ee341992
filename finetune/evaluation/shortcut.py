"""The shortcut: the single word, pair of words or surface rule that predicts the labels best, used as a classifier."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.intervals import mcnemar, wilson
from finetune.evaluation.results import Metric
from finetune.records import Record

_TRAINED = 20_000  # training rows from which the rule is chosen
_NGRAMS = 50_000
_TOKEN = r"(?u)\w+|[^\w\s]"  # words, and single punctuation marks
_NEAR = 0.8  # share of the model's gain over the majority class, from which a rule is nearly as good

_SURFACE: dict[str, Callable[[str], bool]] = {
    "has a digit": lambda text: any(map(str.isdigit, text)),
    "has a capital letter": lambda text: any(map(str.isupper, text)),
    "has no lower-case letter": lambda text: text == text.upper(),
    "begins with a lower-case letter": lambda text: text[:1].islower(),
    "begins or ends with white space": lambda text: text != text.strip(),
    "has a character outside ASCII": lambda text: not text.isascii(),
}


@dataclass(frozen=True, kw_only=True)
class Shortcut(Record):
    """A rule chosen on training rows: rows on which it holds get one label, and all others another."""

    rule: str  # the end of the sentence "a text that ..."
    holds: str  # the label of rows on which it holds
    otherwise: str
    accuracy: Metric  # on the test rows
    model: Metric
    constant: float  # accuracy of always predicting the most frequent training label
    p_value: float  # McNemar: whether the rule and the model are right equally often
    where_wrong: Metric | None  # accuracy of the model on the rows that the rule gets wrong; None: there are none

    @property
    def suffices(self) -> bool:
        """Whether the rule alone is as good as the model, or nearly."""
        own, model = self.accuracy.known_value(), self.model.known_value()
        if own <= self.constant:
            return False
        return self.p_value >= 0.05 or own >= model or own - self.constant >= _NEAR * (model - self.constant)


def find_shortcut(
    train_texts: Sequence[str],
    y_train: np.ndarray,
    test_texts: Sequence[str],
    y_test: np.ndarray,
    predicted: np.ndarray,
    labels: list[str],
) -> Shortcut | None:
    """The rule with the highest accuracy on (a sample of) the training rows, scored on the test rows.

    y_train, y_test, predicted: class indices (n,). None if there is nothing to choose from, or no test row.
    """
    step = max(1, len(train_texts) // _TRAINED)
    texts, y = train_texts[::step], y_train[::step]
    k = len(labels)
    if not len(y_test) or len(np.unique(y)) < 2:
        return None
    totals = np.bincount(y, minlength=k)
    rules = [*_surface_rules(texts, y, k), *_best_ngram(texts, y, k)]
    rule, counts, applies = max(rules, key=lambda entry: _right(entry[1], totals))
    holds, otherwise = int(counts.argmax()), int((totals - counts).argmax())
    said = np.where(np.array([applies(text) for text in test_texts], dtype=bool), holds, otherwise)
    right, of_model = said == y_test, predicted == y_test
    return Shortcut(
        rule=rule,
        holds=labels[holds],
        otherwise=labels[otherwise],
        accuracy=_accuracy(right),
        model=_accuracy(of_model),
        constant=float((y_test == totals.argmax()).mean()),
        p_value=mcnemar(right, of_model),
        where_wrong=None if right.all() else _accuracy(of_model[~right]),
    )


def _accuracy(right: np.ndarray) -> Metric:
    return Metric(float(right.mean()), *wilson(int(right.sum()), len(right)), len(right))


def _right(counts: np.ndarray, totals: np.ndarray) -> int:
    """Training rows that a rule gets right, from the rows of each label on which it holds (K,)."""
    return int(counts.max() + (totals - counts).max())


_Rule = tuple[str, np.ndarray, Callable[[str], bool]]  # words, rows of each label on which it holds (K,), the rule


def _surface_rules(texts: Sequence[str], y: np.ndarray, k: int) -> list[_Rule]:
    lengths = np.array([len(text) for text in texts])
    rules = dict(_SURFACE)
    for cut in sorted({int(np.quantile(lengths, share)) for share in np.arange(0.1, 1.0, 0.1)}):
        rules[f"has more than {cut:,} characters"] = lambda text, cut=cut: len(text) > cut  # type: ignore[misc]
    return [
        (name, np.bincount(y[np.array([rule(text) for text in texts], dtype=bool)], minlength=k), rule)
        for name, rule in rules.items()
    ]


def _best_ngram(texts: Sequence[str], y: np.ndarray, k: int) -> list[_Rule]:
    """The word, sign or pair of them with the highest accuracy; an empty list if there is none."""
    from sklearn.feature_extraction.text import CountVectorizer

    features: Any = CountVectorizer(
        binary=True, ngram_range=(1, 2), token_pattern=_TOKEN, min_df=2, max_features=_NGRAMS, dtype=np.int32
    )
    try:
        found = features.fit_transform(texts)
    except ValueError:  # scikit-learn's only sign of an empty vocabulary
        return []
    counts = np.stack([np.asarray(found[y == label].sum(axis=0)).ravel() for label in range(k)], axis=1)  # (V, K)
    totals = np.bincount(y, minlength=k)
    best = int((counts.max(axis=1) + (totals - counts).max(axis=1)).argmax())
    ngram, analyse = features.get_feature_names_out()[best], features.build_analyzer()
    return [(f"contains {ngram!r}", counts[best], lambda text: ngram in analyse(text))]
