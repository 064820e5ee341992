"""How near answers come to their references, and what they are held against.

Sources: Rajpurkar et al. 2016, arXiv:1606.05250 (exact match and token F1, after its normalisation); Lin 2004, ROUGE
(ROUGE-L, by the library rouge-score); Welleck et al. 2019, arXiv:1908.04319, section 6 (repetition: seq-rep-4).
"""

import re
import string
from collections import Counter

import numpy as np

from finetune.evaluation.intervals import bootstrap, paired_bootstrap, wilson

NEAREST = "the answer to the nearest training question (TF-IDF)"
SHARES = ("identical", "exact_match", "ended")  # of each answer 0 or 1
COMPARED = ("identical", "exact_match", "token_f1", "rouge_l")
_CHUNK = 200  # questions compared with all training questions at once


def normalise_answer(text: str) -> str:
    """SQuAD's form: lower case, without punctuation and articles, white space folded."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def token_f1(answer: str, reference: str) -> float:
    """F1 of the words that two normalised texts share; where one has no words, whether both have none."""
    own, wanted = normalise_answer(answer).split(), normalise_answer(reference).split()
    if not own or not wanted:
        return float(own == wanted)
    shared = sum((Counter(own) & Counter(wanted)).values())
    return 2 * shared / (len(own) + len(wanted))


def rouge_l(answers: list[str], references: list[str]) -> list[float]:
    """The F1 of the longest common subsequence of words. Words are runs of letters and digits of any script."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return [scorer.score(reference, answer)["rougeL"].fmeasure
            for answer, reference in zip(answers, references, strict=True)]


class _Words:
    """rouge-score's own tokenizer drops every letter outside a to z."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def repetition(text: str, n: int = 4) -> float:
    """The share of a text's n-grams of words that stood in it before."""
    words = text.split()
    grams = [tuple(words[i:i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def row_scores(answers: list[str], references: list[str], ended: list[bool] | None = None) -> dict[str, np.ndarray]:
    """Name -> (n,): identical (but for white space), exact_match and token_f1 (as SQuAD), rouge_l, repetition, words,
    reference_words, and ended (with the end token, within the budget) where it is given.

    `exact_match` forgives case, punctuation and articles; a task about letters needs `identical`.
    """
    pairs = list(zip(answers, references, strict=True))
    scores = {
        "identical": [answer.split() == reference.split() for answer, reference in pairs],
        "exact_match": [normalise_answer(answer) == normalise_answer(reference) for answer, reference in pairs],
        "token_f1": [token_f1(answer, reference) for answer, reference in pairs],
        "rouge_l": rouge_l(answers, references),
        "repetition": [repetition(answer) for answer in answers],
        "words": [len(answer.split()) for answer in answers],
        "reference_words": [len(reference.split()) for reference in references]}
    if ended is not None:
        scores["ended"] = ended
    return {name: np.array(values, dtype=np.float64) for name, values in scores.items()}


def answer_metrics(scores: dict[str, np.ndarray], resamples: int, seed: int) -> dict[str, dict]:
    """Metric name -> {"value", "low", "high", "n"}: means over the answers, and length_ratio: words of all answers
    over words of all references. Shares have Wilson's interval, the others the bootstrap's.
    """
    n = len(scores["words"])
    means = [name for name in scores if name not in ("words", "reference_words")]
    columns = np.stack([scores[name] for name in means], axis=1)  # (n, means)

    def statistic(counts):  # (R, n) -> (R, means + 1)
        ratio = counts @ scores["words"] / np.maximum(counts @ scores["reference_words"], 1)
        return np.column_stack([counts @ columns / n, ratio])
    names = [*means, "length_ratio"]
    values = statistic(np.ones((1, n)))[0]
    low, high = bootstrap(statistic, n, resamples, seed)
    intervals = {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}
    intervals |= {name: wilson(int(scores[name].sum()), n) for name in SHARES if name in scores}
    return {name: {"value": float(value), "low": intervals[name][0], "high": intervals[name][1], "n": n}
            for name, value in zip(names, values, strict=True)}


def score_answers(answers: list[str], ended: list[bool], references: list[str], baseline: list[str],
                  resamples: int, seed: int) -> dict:
    """eval.json's keys for answers: "metrics", and in "baselines" what another way to answer scores on the same rows.

    A baseline's "differences": metric -> the model's mean minus its own, with interval and p of the paired bootstrap.
    """
    own, other = row_scores(answers, references, ended), row_scores(baseline, references)
    differences = {name: paired_bootstrap(own[name], other[name], resamples, seed) for name in COMPARED}
    return {"metrics": answer_metrics(own, resamples, seed),
            "baselines": [{"name": NEAREST, "metrics": answer_metrics(other, resamples, seed),
                           "test": "paired bootstrap", "differences": differences}]}


def nearest_answers(train_questions: list[str], train_answers: list[str], questions: list[str]) -> list[str]:
    """To each question the answer of the training question most like it: cosine of TF-IDF, character 2-5-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    features = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    known = features.fit_transform(train_questions).T.tocsr()
    found = []
    for start in range(0, len(questions), _CHUNK):
        cosine = features.transform(questions[start:start + _CHUNK]) @ known  # (chunk, training questions)
        found += [train_answers[i] for i in np.asarray(cosine.argmax(axis=1)).ravel()]
    return found
