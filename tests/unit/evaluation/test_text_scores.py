"""Scores of single texts against SQuAD's own evaluation, rouge-score, and cases counted by hand."""

import re
import string
from collections import Counter

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from finetune.evaluation.text_scores import ROUGE, exact_match, repetition, rouge, squad_exact_match, token_f1

WORDS = ["The", "the", "a", "cat", "Cat.", "sat", "on", "mat!", "an", "red,", "--", "x-ray", "2", "A"]


def texts(count, seed):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(0, 8))) for _ in range(count)]


def squad(answer, reference):
    """Exact match and F1 as in SQuAD's evaluate-v2.0.py."""

    def normalize(s):
        s = "".join(ch for ch in s.lower() if ch not in set(string.punctuation))
        return " ".join(re.compile(r"\b(a|an|the)\b", re.UNICODE).sub(" ", s).split())

    gold, guess = normalize(reference).split(), normalize(answer).split()
    same = sum((Counter(gold) & Counter(guess)).values())
    if len(gold) == 0 or len(guess) == 0:
        return int(gold == guess), int(gold == guess)
    if same == 0:
        return int(gold == guess), 0
    precision, recall = same / len(guess), same / len(gold)
    return int(gold == guess), 2 * precision * recall / (precision + recall)


def test_squad_exact_match_and_f1_are_squads():
    own, wanted = texts(400, 0), texts(400, 1)
    wanted[:60] = [text.upper() + "?" for text in own[:60]]
    expected = np.array([squad(*both) for both in zip(own, wanted, strict=True)], dtype=float)
    assert squad_exact_match(own, wanted).tolist() == expected[:, 0].tolist() and 60 <= expected[:, 0].sum() < 300
    assert token_f1(own, wanted) == pytest.approx(expected[:, 1]) and len(set(expected[:, 1])) > 10


def test_exact_match_forgives_white_space_alone():
    own, wanted = ["A  b\n", "a b", "STOP", "c a t"], ["A b", "A b", "stop", "c t"]
    assert exact_match(own, wanted).tolist() == [1, 0, 0, 0]
    assert squad_exact_match(own, wanted).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "text, share", [("", 0), ("a b c", 0), ("a b c d e", 0), ("a a a a a", 0.5), ("a b c d a b c d a b c d", 5 / 9)]
)
def test_repetition_is_the_share_of_4_grams_seen_before(text, share):
    assert repetition([text, "x"]).tolist() == pytest.approx([share, 0])


def test_rouge_is_the_librarys():
    own, wanted = texts(400, 0), texts(400, 1)
    library = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    expected = [library.score(reference, output) for output, reference in zip(own, wanted, strict=True)]
    for name, scores in rouge(own, wanted).items():
        assert scores == pytest.approx([score[ROUGE[name]].fmeasure for score in expected], abs=1e-9)
        assert len(set(scores)) > 10 and (rouge(own, wanted, (name,))[name] == scores).all()


def test_rouge_knows_every_script():
    # longest common subsequence of "ö ä é" and "ö é x ß": 2 of 3 and of 4
    both = ["Ö ä é"], ["ö É x ß"]
    assert rouge(*both)["rouge_l"] == pytest.approx([2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)])
    assert rouge(*both)["rouge_2"].tolist() == [0] and rouge([""], ["!"])["rouge_1"].tolist() == [0]
