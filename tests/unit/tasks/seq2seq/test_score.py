"""Scores of outputs against sacrebleu's and rouge-score's own, and intervals that can be counted by hand."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from finetune.evaluation.intervals import paired_bootstrap, wilson
from finetune.evaluation.results import Headline
from finetune.evaluation.text_scores import rouge
from finetune.evaluation.written import CleanPart, References, WrittenTexts, measure
from finetune.tasks.instruct.score import answer_scores
from finetune.tasks.seq2seq.score import COMPARED, COPY, choose_headline, score_targets

WORDS = ["The", "cat", "sat,", "on", "mat!", "red", "--", "x-ray", "2,000", "é", "日本語", "and."]


def texts(count, seed, least=0, most=12):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(least, most))) for _ in range(count)]


def score(own, wanted, baselines=None, clean=None, resamples=300, tokens=None, sources=None, **more):
    """With sources "0", "1", ... and one token a reference; without the signatures."""
    references = References(wanted, np.ones(len(wanted)) if tokens is None else tokens)
    clean = np.ones(len(wanted), dtype=bool) if clean is None else clean
    sources = [str(i) for i in range(len(wanted))] if sources is None else sources
    return score_targets(WrittenTexts(own, **more), sources, references, baselines or {}, clean, resamples, 0)[0]


def near_texts(count=60):
    """References, and outputs of which some are the same, some nearly, some not at all."""
    wanted, other = texts(count, 1, least=1), texts(count, 2)
    return [
        a if i % 3 == 0 else f"{a} {b}" if i % 3 == 1 else b for i, (a, b) in enumerate(zip(wanted, other, strict=True))
    ], wanted


@pytest.mark.parametrize("least, most", [(0, 12), (0, 2)])
def test_corpus_scores_and_their_signatures_are_sacrebleus(least, most):
    own, wanted = near_texts()
    own[:20] = texts(20, 5, least, most)
    found, signatures = score_targets(
        WrittenTexts(own), wanted, References(wanted, np.ones(60)), {}, np.ones(60, dtype=bool), 300, 0
    )
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        assert found.metrics[name].value == pytest.approx(metric.corpus_score(own, [wanted]).score, abs=1e-9)
        assert signatures[name] == str(metric.get_signature()) and "version:" in signatures[name]
    assert 5 < found.metrics["bleu"].value < found.metrics["chrf"].value < 95


def test_a_corpus_interval_is_that_of_sacrebleus_scores_of_resamples():
    own, wanted = near_texts(40)
    found, metric = score(own, wanted, resamples=200).metrics, {"bleu": BLEU(), "chrf": CHRF()}
    draw = np.random.default_rng(0)  # as ``bootstrap`` draws
    rows = [np.sort(draw.integers(40, size=40)) for _ in range(200)]
    for name in metric:
        values = [metric[name].corpus_score([own[i] for i in some], [[wanted[i] for i in some]]).score for some in rows]
        assert [found[name].low, found[name].high] == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=1e-9)
        assert found[name].low < found[name].value < found[name].high and found[name].n == 40


def test_means_and_shares_are_those_of_the_rows():
    own, wanted = near_texts()
    right, tokens, nats = np.arange(60) % 4, np.full(60, 5), np.linspace(1, 9, 60)
    found = score(own, wanted, tokens=tokens, ended=[i % 2 == 0 for i in range(60)], nats=nats, right=right).metrics
    for name, values in rouge(own, wanted).items():
        assert found[name].value == pytest.approx(np.mean(values), abs=1e-9)
    same = sum(a.split() == b.split() for a, b in zip(own, wanted, strict=True))
    assert found["exact_match"].value == same / 60 and 20 <= same < 40
    assert (found["exact_match"].low, found["exact_match"].high) == wilson(same, 60)
    assert found["ended"].value == 0.5 and (found["ended"].low, found["ended"].high) == wilson(30, 60)
    assert found["token_accuracy"].value == pytest.approx(1.5 / 5)
    assert found["log_loss"].value == pytest.approx(5 / 5) and found["perplexity"].value == pytest.approx(np.e)
    lengths = [sum(len(text.split()) for text in some) for some in (own, wanted)]
    assert found["length_ratio"].value == pytest.approx(lengths[0] / lengths[1])
    assert all(metric.low <= metric.value <= metric.high and metric.n == 60 for metric in found.values())


def test_the_interval_of_a_toy_equals_its_exact_value():
    """Of two rows, one with a loss of 1 and one of 3 a token, a resample has a mean of 1, 2 or 3, as 1 : 2 : 1."""
    found = score(
        ["a", "c"],
        ["a", "b"],
        {"other": WrittenTexts(["d", "e"])},
        tokens=np.array([2, 2]),
        nats=np.array([2.0, 6.0]),
        resamples=2000,
    )
    loss = found.metrics["log_loss"]
    assert (loss.low, loss.value, loss.high) == pytest.approx((1, 2, 3))
    difference = found.baselines[1].differences["exact_match"]  # 0, 1/2 or 1, and half of them as far as 1/2
    assert (difference.low, difference.value, difference.high) == (0, 0.5, 1)
    assert difference.p_value == pytest.approx(0.5, abs=0.05)


def test_exact_match_ignores_only_white_space():
    own, wanted = ["A  b\n", "a b", "STOP", "c"], ["A b", "A b", "stop", "c."]
    found = score(own, wanted).metrics["exact_match"]
    assert found.value == 1 / 4
    assert measure(answer_scores(WrittenTexts(own), References(wanted, np.ones(4))), 300, 0)["exact_match"] == found


def test_baselines_are_compared_on_the_same_rows():
    own, wanted = near_texts()
    other = [text if i % 2 else "?" for i, text in enumerate(own)]
    draw = np.random.default_rng(0)
    nats, right, tokens = draw.uniform(1, 9, (2, 60)), draw.integers(0, 3, (2, 60)), draw.integers(3, 9, 60)
    found = score(
        own,
        wanted,
        {"before": WrittenTexts(other, None, nats[1], right[1]), "worse": WrittenTexts(wanted)},
        tokens=tokens,
        sources=["cat"] * 60,
        nats=nats[0],
        right=right[0],
    )
    copy, before, best = found.baselines
    assert copy.name == COPY and copy.metrics["exact_match"].value == 0
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        expected = [metric.corpus_score(some, [wanted]).score for some in (own, other)]
        assert before.differences[name].value == pytest.approx(expected[0] - expected[1], abs=1e-9)
        assert 0 < before.differences[name].low < before.differences[name].high
        assert best.differences[name].value < 0 and best.differences[name].p_value < 0.01
    scores = [rouge(some, wanted)["rouge_l"] for some in (own, other)]
    for name, expected in (
        ("rouge_l", paired_bootstrap(*scores, 300, 0)),
        ("log_loss", paired_bootstrap(*nats, 300, 0, tokens)),
        ("token_accuracy", paired_bootstrap(*right, 300, 0, tokens)),
    ):
        assert vars(before.differences[name]) == pytest.approx(vars(expected)), name
    assert before.differences.keys() == set(COMPARED)
    assert not {"log_loss", "token_accuracy"} & (best.differences.keys() | best.metrics.keys())
    assert before.p_value == before.differences["exact_match"].p_value and before.test == "paired bootstrap"


def test_the_clean_part_is_scored_alone():
    own, wanted = near_texts()
    part = score(own, wanted, clean=np.arange(60) >= 20).clean
    assert part.n == 40 and part.metrics["bleu"].value == pytest.approx(
        BLEU().corpus_score(own[20:], [wanted[20:]]).score, abs=1e-9
    )
    assert score(own, wanted, clean=np.zeros(60, dtype=bool)).clean == CleanPart(0, {})
    whole = score(own, wanted)
    assert whole.clean == CleanPart(60, whole.metrics)
    assert part.metrics == score(own[20:], wanted[20:]).metrics


def test_the_headline_depends_only_on_the_references():
    assert choose_headline(["a", "b c", "word " * 50]) == "exact_match"
    assert choose_headline(["a", "word " * 11, "word " * 12]) == "chrf"
    for wanted, name in ((["e f g h"] * 4, "exact_match"), (["e f g h " * 3] * 4, "chrf")):
        found = score(["a b c d"] * 4, wanted)
        assert found.headline == Headline(**vars(found.metrics[name]), metric=name, split="test")
        assert found.baselines[0].p_value == found.baselines[0].differences[name].p_value == 1.0


@pytest.mark.parametrize(
    "own, wanted",
    [([""] * 5, ["a b c d"] * 5), (["a b"] * 5, [""] * 5), ([""], [""]), (["a"], ["a"]), (["!!"] * 3, ["??"] * 3)],
)
def test_degenerate_texts_have_values_or_a_reason(own, wanted):
    found = score(own, wanted, ended=[False] * len(own), nats=np.full(len(own), 900.0), right=np.zeros(len(own)))
    assert found.metrics["chrf"].value == pytest.approx(CHRF().corpus_score(own, [wanted]).score, abs=1e-9)
    undefined = {name: metric.reason for name, metric in found.metrics.items() if metric.value is None}
    assert undefined == ({} if wanted[0] == "a b c d" else {"bleu": "no reference has 4 words"}) | (
        {} if any(wanted) else {"length_ratio": "the references have no words"}
    )
    for name, metric in found.metrics.items():
        assert name in undefined or np.isfinite([metric.low, metric.value, metric.high]).all(), name
    assert all(entry.p_value <= 1 and not undefined.keys() & entry.differences.keys() for entry in found.baselines)
