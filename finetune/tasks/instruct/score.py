"""How near answers come to their references, and what they are held against.

Sources: Rajpurkar et al. 2016, arXiv:1606.05250 (exact match and token F1, after its normalisation); Lin 2004, ROUGE
(ROUGE-L); Welleck et al. 2019, arXiv:1908.04319, section 6 (repetition: seq-rep-4).
"""

import re
import string
from collections import Counter
from dataclasses import dataclass

import numpy as np

from finetune.evaluation.intervals import bootstrap, paired_bootstrap, wilson
from finetune.evaluation.language import loss_metrics
from finetune.evaluation.rouge import rouge

NEAREST = "the answer to the nearest training question (TF-IDF)"
UNTUNED = "the model before training, same prompt"
SHORT = 10  # words of a reference at most, where an answer can be expected to be the same
OF_SHORT = ("exact_match", "squad_exact_match", "token_f1")  # measured where the reference is short
SHARES = ("exact_match", "squad_exact_match", "ended", "well_formed")  # of each answer 0 or 1
COMPARED = (*OF_SHORT, "rouge_l")


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


def repetition(text: str, n: int = 4) -> float:
    """The share of a text's n-grams of words that stood in it before."""
    words = text.split()
    grams = [tuple(words[i:i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@dataclass(frozen=True)
class Written:
    """What one way to answer made of the same questions."""

    texts: list[str]
    ended: list[bool] | None = None  # with the end token, within the budget
    nats: np.ndarray | None = None  # (n,) cross entropy of the right answers, each summed over its tokens

    def take(self, rows: np.ndarray) -> "Written":
        """Some of them, (m,) positions."""
        return Written([self.texts[i] for i in rows], None if self.ended is None else [self.ended[i] for i in rows],
                       None if self.nats is None else self.nats[rows])


@dataclass(frozen=True)
class References:
    """The right answers."""

    texts: list[str]
    tokens: np.ndarray  # (n,) of each, as the model learns them
    markers: tuple[str, ...] = ()  # what a line of an answer begins with where it goes on with another prompt

    def take(self, rows: np.ndarray) -> "References":
        """Some of them, (m,) positions."""
        return References([self.texts[i] for i in rows], self.tokens[rows], self.markers)


def row_scores(answers: list[str], references: list[str], ended: list[bool] | None = None,
               markers: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Name -> (n,): exact_match (but for white space), squad_exact_match and token_f1, rouge_l, repetition,
    words, reference_words; with `ended` that, and well_formed: ended, not empty, and no line goes on as a prompt.

    `squad_exact_match` forgives case, punctuation and articles; a task about letters needs `exact_match`.
    """
    pairs = list(zip(answers, references, strict=True))
    scores = {
        "exact_match": [answer.split() == reference.split() for answer, reference in pairs],
        "squad_exact_match": [normalise_answer(answer) == normalise_answer(reference) for answer, reference in pairs],
        "token_f1": [token_f1(answer, reference) for answer, reference in pairs],
        "rouge_l": rouge(answers, references, ("rouge_l",))["rouge_l"],
        "repetition": [repetition(answer) for answer in answers],
        "words": [len(answer.split()) for answer in answers],
        "reference_words": [len(reference.split()) for reference in references]}
    if ended is not None:
        scores["ended"] = ended
        scores["well_formed"] = [done and bool(answer.strip()) and not _goes_on(answer, markers)
                                 for answer, done in zip(answers, ended, strict=True)]
    return {name: np.array(values, dtype=np.float64) for name, values in scores.items()}


def _goes_on(answer: str, markers: tuple[str, ...]) -> bool:
    return bool(markers) and any(line.strip().startswith(markers) for line in answer.splitlines())


def answer_metrics(scores: dict[str, np.ndarray], resamples: int, seed: int) -> dict[str, dict]:
    """Metric name -> {"value", "low", "high", "n"}: means over the answers, for ``OF_SHORT`` over those with a short
    reference, and length_ratio: words of all answers over words of all references.

    Shares have Wilson's interval, the others the bootstrap's.
    """
    n, short = len(scores["words"]), is_short(scores)
    means = {name: short if name in OF_SHORT else np.ones(n) for name in scores
             if name not in ("words", "reference_words")}
    over = np.stack([*means.values(), np.ones(n)], axis=1)  # (n, M): the rows that each metric is over
    values = np.stack([*(scores[name] for name in means), scores["words"]], axis=1) * over
    over[:, -1] = scores["reference_words"]

    def statistic(counts):  # (R, n) -> (R, M)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (counts @ values) / (counts @ over)
    found = statistic(np.ones((1, n)))[0]
    low, high = bootstrap(statistic, n, resamples, seed)
    metrics = {}
    for i, name in enumerate([*means, "length_ratio"]):
        rows = int(short.sum()) if name in OF_SHORT else n
        if not rows:
            metrics[name] = {"value": None, "low": None, "high": None, "n": 0,
                             "reason": f"no reference has {SHORT} words or fewer"}
            continue
        ends = wilson(int(values[:, i].sum()), rows) if name in SHARES else (float(low[i]), float(high[i]))
        metrics[name] = {"value": float(found[i]), "low": ends[0], "high": ends[1], "n": rows}
    return metrics


def is_short(scores: dict[str, np.ndarray]) -> np.ndarray:
    """Whether each reference is short enough to be met word by word: bool (n,)."""
    return scores["reference_words"] <= SHORT


def score_answers(own: Written, references: References, baselines: dict[str, Written], clean: np.ndarray,
                  resamples: int, seed: int) -> dict:
    """eval.json's keys for answers: "headline", "metrics", "clean", and in "baselines" what other ways to answer score
    on the same rows.

    The headline is `exact_match`, or rouge_l where no reference is short. clean: bool (n,), the rows that stand in no
    other split. A baseline's "differences": metric -> the model's mean minus its own, with interval and p of the paired
    bootstrap; "p_value" is that of the headline.
    """
    scores, metrics = _measure(own, references, resamples, seed)
    name = "exact_match" if metrics["exact_match"]["value"] is not None else "rouge_l"
    entries = []
    for baseline, written in baselines.items():
        other, found = _measure(written, references, resamples, seed)
        differences = {}
        for metric in COMPARED:
            rows = is_short(scores) if metric in OF_SHORT else slice(None)
            if metrics[metric]["value"] is not None:
                differences[metric] = paired_bootstrap(scores[metric][rows], other[metric][rows], resamples, seed)
        if own.nats is not None and written.nats is not None:
            differences["log_loss"] = paired_bootstrap(own.nats, written.nats, resamples, seed, references.tokens)
        entries.append({"name": baseline, "metrics": found, "test": "paired bootstrap",
                        "p_value": differences[name]["p_value"], "differences": differences})
    rows, alone = np.flatnonzero(clean), {}
    if len(rows):
        _, alone = _measure(own.take(rows), references.take(rows), resamples, seed)
    return {"headline": {"metric": name, **metrics[name], "split": "test"}, "metrics": metrics, "baselines": entries,
            "clean": {"n": len(rows), "metrics": alone}}


def _measure(written: Written, references: References, resamples: int, seed: int) -> tuple[dict, dict]:
    """Scores of each row, and the metrics."""
    scores = row_scores(written.texts, references.texts, written.ended, references.markers)
    metrics = answer_metrics(scores, resamples, seed)
    if written.nats is not None:
        metrics |= loss_metrics(written.nats, references.tokens, resamples, seed)
    return scores, metrics
