"""Scores of answers against SQuAD's own evaluation, rouge-score, scikit-learn and cases counted by hand."""

import re
import string
from collections import Counter

import numpy as np
import pytest

from finetune.evaluation.intervals import paired_bootstrap, wilson
from finetune.tasks.instruct import score as answers

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
    scores = answers.row_scores(own, wanted)
    expected = np.array([squad(*both) for both in zip(own, wanted, strict=True)], dtype=float)
    assert scores["squad_exact_match"].tolist() == expected[:, 0].tolist() and 60 <= expected[:, 0].sum() < 300
    assert scores["token_f1"] == pytest.approx(expected[:, 1]) and len(set(expected[:, 1])) > 10


def test_exact_match_forgives_white_space_alone():
    scores = answers.row_scores(["A  b\n", "a b", "STOP", "c a t"], ["A b", "A b", "stop", "c t"])
    assert scores["exact_match"].tolist() == [1, 0, 0, 0] and scores["squad_exact_match"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("text, share", [
    ("", 0), ("a b c", 0), ("a b c d e", 0), ("a a a a a", 0.5), ("a b c d a b c d a b c d", 5 / 9)])
def test_repetition_is_the_share_of_4_grams_seen_before(text, share):
    assert answers.repetition(text) == pytest.approx(share)


def test_metrics_are_means_and_shares_with_their_intervals():
    own, wanted = ["red", "a red car", "", "x x x x x"], ["red", "blue car", "no", "y"]
    found = answers.answer_metrics(answers.row_scores(own, wanted, [True, True, False, False]), 500, seed=0)
    assert {name: metric["value"] for name, metric in found.items()} == pytest.approx({
        "exact_match": 1 / 4, "squad_exact_match": 1 / 4, "token_f1": (1 + 1 / 2) / 4, "rouge_l": (1 + 2 / 5) / 4,
        "repetition": 0.5 / 4, "ended": 2 / 4, "well_formed": 2 / 4, "length_ratio": 9 / 5})
    assert (found["ended"]["low"], found["ended"]["high"]) == wilson(2, 4)
    assert all(metric["low"] <= metric["value"] <= metric["high"] and metric["n"] == 4 for metric in found.values())
    assert found["token_f1"]["low"] == 0 and found["token_f1"]["high"] < 1


def test_the_same_words_are_asked_of_short_references_alone():
    own, wanted = ["red", "x", "many words", "no"], ["red", "y", "word " * 11, "word " * 12]
    found = answers.answer_metrics(answers.row_scores(own, wanted), 500, seed=0)
    assert {name: found[name]["n"] for name in answers.OF_SHORT} == dict.fromkeys(answers.OF_SHORT, 2)
    assert found["exact_match"]["value"] == 0.5 and found["rouge_l"]["n"] == 4 and found["rouge_l"]["value"] == 0.25
    assert (found["exact_match"]["low"], found["exact_match"]["high"]) == wilson(1, 2)
    none = answers.answer_metrics(answers.row_scores(own[2:], wanted[2:]), 500, seed=0)
    assert none["exact_match"]["value"] is None and "10 words" in none["exact_match"]["reason"]


def test_an_answer_keeps_the_format_if_it_ends_and_goes_on_with_no_prompt():
    texts = ["red", "", "red\n  User: and blue?", "the User: is here", "endless"]
    scores = answers.row_scores(texts, ["red"] * 5, [True] * 4 + [False], markers=("User:",))
    assert scores["well_formed"].tolist() == [1, 0, 0, 1, 0] and scores["ended"].tolist() == [1, 1, 1, 1, 0]


def test_a_model_is_compared_with_the_baselines_on_the_same_rows():
    wanted = [str(i) for i in range(40)]
    own = [text if i % 2 else "?" for i, text in enumerate(wanted)]
    other = [text if i % 4 == 1 else "!" for i, text in enumerate(wanted)]
    draw = np.random.default_rng(0)
    nats, tokens = draw.uniform(1, 9, (2, 40)), draw.integers(1, 9, 40)
    clean = np.arange(40) >= 10
    found = answers.score_answers(
        answers.Written(own, [True] * 40, nats[0]), answers.References(wanted, tokens),
        {"before": answers.Written(other, [False] * 40, nats[1]), "nearest": answers.Written(other)}, clean, 500, 0)
    before, nearest = found["baselines"]
    assert found["headline"] == {"metric": "exact_match", "split": "test", **found["metrics"]["exact_match"]}
    assert found["metrics"]["exact_match"]["value"] == 0.5 and before["metrics"]["exact_match"]["value"] == 0.25
    assert found["metrics"]["log_loss"]["value"] == pytest.approx(nats[0].sum() / tokens.sum())
    assert found["metrics"]["perplexity"]["value"] == pytest.approx(np.exp(nats[0].sum() / tokens.sum()))
    assert "ended" in before["metrics"] and not {"ended", "log_loss"} & nearest["metrics"].keys()
    scores = [answers.row_scores(texts, wanted) for texts in (own, other)]
    same = {name: paired_bootstrap(*(score[name] for score in scores), 500, 0)
            for name in ("exact_match", "squad_exact_match", "token_f1", "rouge_l")}
    assert nearest["differences"] == same and nearest["p_value"] == same["exact_match"]["p_value"] < 0.01
    loss = before["differences"]["log_loss"]
    assert loss["value"] == pytest.approx((nats[0] - nats[1]).sum() / tokens.sum()) and loss["low"] < loss["high"]
    alone = answers.answer_metrics(answers.row_scores(own[10:], wanted[10:], [True] * 30), 500, seed=0)
    assert found["clean"]["n"] == 30 and alone.items() <= found["clean"]["metrics"].items()
    assert found["clean"]["metrics"]["log_loss"]["value"] == pytest.approx(nats[0, 10:].sum() / tokens[10:].sum())


def test_where_no_reference_is_short_the_headline_is_rouge_l():
    long = ["word " * 12, "other " * 12]
    found = answers.score_answers(answers.Written(long), answers.References(long, np.ones(2)),
                                  {"none": answers.Written(["", ""])}, np.array([False, False]), 100, seed=0)
    assert found["headline"]["metric"] == "rouge_l" and found["headline"]["value"] == 1
    assert found["baselines"][0]["differences"].keys() == {"rouge_l"} and found["clean"] == {"n": 0, "metrics": {}}
