"""Scores of single texts against references: exact match, token F1, ROUGE, and repetition.

BLEU and chrF, which are of a whole corpus, are in ``written.py``.

Sources: Rajpurkar et al. 2016, arXiv:1606.05250 (SQuAD's exact match and token F1, after its normalisation); Lin 2004,
ROUGE, by the library rouge-score; Welleck et al. 2019, arXiv:1908.04319, section 6 (repetition: seq-rep-4).
"""

import re
import string
from collections import Counter
from collections.abc import Callable

import numpy as np

SHORT = 10  # max words in a reference for which an exact match is plausible
ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}  # ours -> the library's


def exact_match(texts: list[str], references: list[str]) -> np.ndarray:
    """Whether each text equals its reference up to white space: bool (n,)."""
    return _each(texts, references, lambda own, wanted: own.split() == wanted.split()).astype(bool)


def squad_exact_match(texts: list[str], references: list[str]) -> np.ndarray:
    """Whether each text equals its reference after SQuAD's normalisation: bool (n,)."""
    return _each(texts, references, lambda own, wanted: squad_form(own) == squad_form(wanted)).astype(bool)


def token_f1(texts: list[str], references: list[str]) -> np.ndarray:
    """Token F1 (n,) of each text against its reference after SQuAD's normalisation.

    If either has no words: 1 if both are empty, else 0.
    """
    return _each(texts, references, _token_f1)


def squad_form(text: str) -> str:
    """SQuAD's normalisation: lower case, without punctuation and articles, white space folded."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _each(texts: list[str], references: list[str], score: Callable[[str, str], float]) -> np.ndarray:
    return np.array([score(own, wanted) for own, wanted in zip(texts, references, strict=True)], dtype=np.float64)


def _token_f1(text: str, reference: str) -> float:
    own, wanted = squad_form(text).split(), squad_form(reference).split()
    if not own or not wanted:
        return float(own == wanted)
    shared = sum((Counter(own) & Counter(wanted)).values())
    return 2 * shared / (len(own) + len(wanted))


def repetition(texts: list[str], n: int = 4) -> np.ndarray:
    """The fraction of each text's word n-grams that repeat an earlier one."""
    found = []
    for words in map(str.split, texts):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        found.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return np.array(found)


def word_counts(texts: list[str]) -> np.ndarray:
    """Number of words in each text (n,)."""
    return np.array([len(text.split()) for text in texts])


def rouge(texts: list[str], references: list[str], names: tuple[str, ...] = tuple(ROUGE)) -> dict[str, np.ndarray]:
    """Name -> the F1 (n,) of each text: of the words (rouge_1), the pairs of words (rouge_2) and the longest common
    subsequence of words (rouge_l) that it shares with its reference. Words are runs of letters and digits.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([ROUGE[name] for name in names], tokenizer=_Words())
    scores = [scorer.score(reference, text) for text, reference in zip(texts, references, strict=True)]
    return {name: np.array([score[ROUGE[name]].fmeasure for score in scores]) for name in names}


class _Words:
    """Replaces rouge-score's tokenizer, which drops every letter outside a to z."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())
