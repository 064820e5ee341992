"""The baselines of a tagger: each word's most frequent tag, and a logistic regression over features of words."""

import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.tasks.tag.score import System, entity_counts, scores_of
from finetune.tasks.tag.sentences import Sentence
from finetune.tasks.tag.spans import OUTSIDE

FREQUENT = "most frequent tag"
LOGISTIC = "logistic regression"
COSTS = (1.0, 10.0, 100.0)  # C: inverse strength of the L2 penalty
WORK_LIMIT = 1_500_000  # maximum words x tags; above it, a sample of the sentences is used, to bound time
AFFIX = 4  # maximum characters of a prefix or a suffix


def most_frequent(train: Sequence[Sentence], test: Sequence[Sentence]) -> System:
    """The most frequent tag of each word in train; O for an unknown word."""
    begun = time.perf_counter()
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for own in train:
        for word, tag in zip(own.words, own.tags, strict=True):
            seen[word][tag] += 1
    chosen = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
    tags = [[chosen.get(word, OUTSIDE) for word in own.words] for own in test]
    note = "gives each word its most frequent tag in the training set; all other words get O"
    return System(FREQUENT, tags, note, time.perf_counter() - begun)


def logistic(
    train: Sequence[Sentence], val: Sequence[Sentence], test: Sequence[Sentence], tags: list[str], seed: int
) -> System:
    """Classify each word by its letters, its shape and its neighbours; C is chosen by F1 on val.

    The features are those of Ratinov and Roth 2009, CoNLL, without word lists.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression

    begun = time.perf_counter()
    used, sampled = _within_work_limit(train, len(tags), seed)
    wanted = [tag for own in used for tag in own.tags]
    vectorizer = DictVectorizer()
    features = vectorizer.fit_transform([word for own in used for word in word_features(own.words)])

    def tag(model: Any, sentences: Sequence[Sentence]) -> list[list[str]]:
        flat = model.predict(vectorizer.transform([word for own in sentences for word in word_features(own.words)]))
        ends = np.cumsum([len(own.words) for own in sentences])[:-1]
        return [own.tolist() for own in np.split(flat, ends)]

    best: Any = None
    best_score, cost = -1.0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # close enough after the last iteration
        for c in COSTS:
            model = LogisticRegression(C=c, max_iter=200).fit(features, wanted)
            score = scores_of(entity_counts(val, tag(model, val), tags))["f1"]
            if score > best_score:
                best, best_score, cost = model, score, c
    note = (
        f"features of the word (characters, prefixes, suffixes, shape) and of the two words on either side; "
        f"C = {cost:g} chosen on validation{sampled}"
    )
    return System(LOGISTIC, tag(best, test), note, time.perf_counter() - begun)


def word_features(words: Sequence[str]) -> list[dict[str, float]]:
    """The features of each word of a sentence."""
    padded = ["<s>", "<s>", *words, "</s>", "</s>"]
    found = []
    for at, word in enumerate(words, 2):
        own = {f"word={word}", f"lower={word.lower()}", f"shape={shape(word)}", f"short={short_shape(word)}"}
        own |= {f"begins={word[:n]}" for n in range(1, AFFIX + 1)} | {f"ends={word[-n:]}" for n in range(1, AFFIX + 1)}
        own |= {
            f"{offset:+d} {what}"
            for offset in (-2, -1, 1, 2)
            for what in (padded[at + offset].lower(), short_shape(padded[at + offset]))
        }
        own |= {f"-1 0 {padded[at - 1].lower()} {word.lower()}", f"0 +1 {word.lower()} {padded[at + 1].lower()}"}
        own |= {"first"} if at == 2 else set()
        found.append(dict.fromkeys(sorted(own), 1.0))
    return found


def shape(word: str) -> str:
    """Xxxx-00 for Oslo-24."""
    return "".join("X" if c.isupper() else "x" if c.islower() else "0" if c.isdigit() else c for c in word)


def short_shape(word: str) -> str:
    """The shape with repeated letters collapsed: Xx-0 for Oslo-24."""
    found = shape(word)
    return "".join(c for at, c in enumerate(found) if at == 0 or found[at - 1] != c)


def _within_work_limit(train: Sequence[Sentence], tags: int, seed: int) -> tuple[Sequence[Sentence], str]:
    """All sentences, or a sample of them, and a note about it."""
    work = sum(len(own.words) for own in train) * tags
    if work <= WORK_LIMIT:
        return train, ""
    order = np.random.default_rng(seed).permutation(len(train))[: int(len(train) * WORK_LIMIT / work)]
    used = [train[at] for at in sorted(order.tolist())]
    return used, f"; fitted on {len(used):,} of {len(train):,} sentences to limit the time"
