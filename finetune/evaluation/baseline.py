"""Baselines: the majority class, and TF-IDF with logistic regression."""

import time
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.tfidf import TfidfModel

_COSTS = (1.0, 10.0, 100.0)  # C: inverse strength of the L2 penalty
_CHARACTER_NGRAM_LIMIT = 10_000_000  # characters of training text; above it, only word n-grams, to bound memory
_WORK_LIMIT = 100_000_000  # characters x classes; above it, a sample of the rows, to bound time
_SEED = 0


def majority(y_train: ArrayLike, k: int, n: int) -> np.ndarray:
    """Probabilities (n, k): the class frequencies in train, the same for every row."""
    shares = np.bincount(np.asarray(y_train, dtype=int), minlength=k).astype(float)
    shares = shares / shares.sum() if shares.sum() else np.full(k, 1 / k)
    return np.tile(shares, (n, 1))


def tfidf_logistic(
    train_texts: Iterable[str],
    y_train: ArrayLike,
    val_texts: Iterable[str],
    y_val: ArrayLike,
    test_texts: Iterable[str],
    k: int,
) -> tuple[np.ndarray, str, float]:
    """Probabilities (n, k) of `test_texts`, a note on what was fitted, and the seconds it took.

    TF-IDF of words (1-2) and of characters inside words (2-5) with sublinear term frequency, then logistic
    regression with the C that has the highest validation accuracy (ties: lowest log loss). Classes missing
    from train get probability 0.
    """
    start, texts = time.perf_counter(), list(test_texts)
    model, note = fit_tfidf(list(train_texts), y_train, list(val_texts), y_val, k)
    probabilities = majority(y_train, k, len(texts)) if model is None else model.probabilities(texts)
    return probabilities, note, time.perf_counter() - start


def fit_tfidf(
    train_texts: list[str], y_train: ArrayLike, val_texts: list[str], y_val: ArrayLike, k: int
) -> tuple[TfidfModel | None, str]:
    """The fitted model of ``tfidf_logistic``, or None if there is nothing to fit, and a note."""
    y_train, y_val = np.asarray(y_train, dtype=int), np.asarray(y_val, dtype=int)
    if len(np.unique(y_train)) < 2:
        return None, "train has fewer than two classes, so there is nothing to fit"

    train_texts, y_train, sampled = _within_work_limit(train_texts, y_train, k)
    features, what = tfidf_features(train_texts)
    try:
        train = features.fit_transform(train_texts)
    except ValueError:  # scikit-learn's only sign of an empty vocabulary
        return None, "train has no word or character to count, so the majority class is predicted"

    val = features.transform(val_texts) if val_texts else None
    best: Any = None
    best_rank: tuple[float, ...] = ()
    for cost in _COSTS if val_texts else (_COSTS[1],):
        model = _fit(train, y_train, cost)
        rank: tuple[float, ...] = _rank(_class_probabilities(model, val, k), y_val) if val_texts else ()
        if best is None or rank > best_rank:
            best, best_rank = model, rank
    chosen = "chosen on validation" if val_texts else "without validation rows to choose it on"
    note = f"{what}, C = {best.C:g} {chosen}{sampled}"
    return TfidfModel(features, best, k, note), note


def tfidf_one_vs_rest(
    train_texts: list[str], y_train: np.ndarray, val_texts: list[str], y_val: np.ndarray, test_texts: list[str]
) -> tuple[np.ndarray, str, float]:
    """As ``tfidf_logistic``, for rows that may have several labels: probabilities (n, K), a note, and the seconds.

    The features of ``tfidf_logistic``, then one logistic regression for each label (scikit-learn's
    OneVsRestClassifier), all with the C of the lowest validation log loss. y_train, y_val: indicators (n, K), K > 1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    start, sampled = time.perf_counter(), ""
    shares = np.tile(y_train.mean(axis=0), (len(test_texts), 1))
    work = sum(map(len, train_texts)) * y_train.shape[1]
    if work > _WORK_LIMIT:
        keep = np.random.default_rng(_SEED).permutation(len(train_texts))[: int(len(train_texts) * _WORK_LIMIT / work)]
        sampled = f"; fitted on {len(keep):,} of {len(train_texts):,} rows to limit the time"
        train_texts, y_train = [train_texts[row] for row in keep], y_train[keep]
    features, what = tfidf_features(train_texts)
    try:
        train = features.fit_transform(train_texts)
    except ValueError:  # scikit-learn's only sign of an empty vocabulary
        return (
            shares,
            "no word or character to count, so the shares of the labels are predicted",
            time.perf_counter() - start,
        )
    val, test = features.transform(val_texts), features.transform(test_texts)
    best_loss, best_cost, probabilities = np.inf, 0.0, shares
    for cost in _COSTS:
        model = OneVsRestClassifier(LogisticRegression(C=cost, solver="liblinear", random_state=_SEED))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a label that all rows have, or none, is predicted as such
            model.fit(train, y_train)
        found = model.predict_proba(val)
        right = np.where(y_val, found, 1 - found)
        loss = -float(np.log(np.clip(right, np.finfo(float).eps, 1)).mean())
        if loss < best_loss:
            best_loss, best_cost, probabilities = loss, cost, model.predict_proba(test)
    note = f"{what}, one classifier for each label, C = {best_cost:g} chosen on validation{sampled}"
    return probabilities, note, time.perf_counter() - start


def _within_work_limit(texts: list[str], y: np.ndarray, k: int) -> tuple[list[str], np.ndarray, str]:
    """All rows, or a seeded sample of them that keeps every class, and a note about it."""
    work = sum(map(len, texts)) * (k if k > 2 else 1)
    if work <= _WORK_LIMIT:
        return texts, y, ""
    order = np.random.default_rng(_SEED).permutation(len(texts))
    _, firsts = np.unique(y[order], return_index=True)
    order = np.concatenate([order[firsts], np.delete(order, firsts)])
    keep = order[: max(len(firsts), int(len(texts) * _WORK_LIMIT / work))]
    note = f"; fitted on {len(keep):,} of {len(texts):,} rows to limit the time"
    return [texts[row] for row in keep], y[keep], note


def tfidf_features(texts: list[str]) -> tuple[Any, str]:
    """The unfitted TF-IDF features for this much text, and their name."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    rare = {"sublinear_tf": True, "min_df": 2 if len(texts) >= 1000 else 1, "dtype": np.float64}
    words = ("words", TfidfVectorizer(ngram_range=(1, 2), **rare))
    characters = ("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **rare))
    if sum(map(len, texts)) > _CHARACTER_NGRAM_LIMIT:
        return FeatureUnion([words]), "word unigrams and bigrams (too much text for character n-grams)"
    if not _has_vocabulary(texts, words[1]):  # texts without words of two letters, as in some scripts
        return FeatureUnion([characters]), "character 2-5-grams"
    return FeatureUnion([words, characters]), "word unigrams and bigrams, and character n-grams of length 2 to 5"


def _has_vocabulary(texts: Iterable[str], vectorizer: Any) -> bool:
    """Whether any feature occurs in enough texts to be counted."""
    analyse = vectorizer.build_analyzer()
    seen: set[str] = set()
    for text in texts:
        features = set(analyse(text))
        if features and (vectorizer.min_df == 1 or features & seen):
            return True
        seen |= features
    return False


def _fit(features: Any, y: np.ndarray, cost: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # close enough after the last iteration
        return LogisticRegression(C=cost, max_iter=300).fit(features, y)


def _class_probabilities(model: Any, features: Any, k: int) -> np.ndarray:
    """(n, k), with zeros for classes missing from training."""
    probabilities = np.zeros((features.shape[0], k))
    probabilities[:, model.classes_] = model.predict_proba(features)
    return probabilities


def _rank(probabilities: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Sort key, higher is better: accuracy, then negative log loss."""
    own = np.clip(probabilities[np.arange(len(y)), y], np.finfo(float).eps, None)
    return float((probabilities.argmax(axis=1) == y).mean()), float(np.log(own).mean())


_CHUNK = 200  # questions compared with all training questions at once


def nearest_answers(train_questions: list[str], train_answers: list[str], questions: list[str]) -> list[str]:
    """For each question, the answer of its nearest training question: TF-IDF cosine, character 2-5-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    features = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    known = features.fit_transform(train_questions).T.tocsr()
    found = []
    for start in range(0, len(questions), _CHUNK):
        cosine = features.transform(questions[start : start + _CHUNK]) @ known  # (chunk, training questions)
        found += [train_answers[i] for i in np.asarray(cosine.argmax(axis=1)).ravel()]
    return found
