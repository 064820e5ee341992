"""What answers are measured by: each metric over its rows, counted by hand, and the tests against baselines."""

import numpy as np
import pytest

from finetune.evaluation.intervals import paired_bootstrap, wilson
from finetune.evaluation.results import Headline
from finetune.evaluation.text_scores import exact_match, rouge, squad_exact_match, token_f1
from finetune.evaluation.written import CleanPart, References, WrittenTexts, measure
from finetune.tasks.instruct.score import OF_SHORT, answer_scores, score_answers


def metrics(own, wanted, ended=None, markers=()):
    return measure(answer_scores(WrittenTexts(own, ended), References(wanted, np.ones(len(wanted))), markers), 500, 0)


def test_metrics_are_means_and_shares_with_their_intervals():
    own, wanted = ["red", "a red car", "", "x x x x x"], ["red", "blue car", "no", "y"]
    found = metrics(own, wanted, [True, True, False, False])
    assert {name: metric.value for name, metric in found.items()} == pytest.approx(
        {
            "exact_match": 1 / 4,
            "squad_exact_match": 1 / 4,
            "token_f1": (1 + 1 / 2) / 4,
            "rouge_l": (1 + 2 / 5) / 4,
            "repetition": 0.5 / 4,
            "ended": 2 / 4,
            "well_formed": 2 / 4,
            "length_ratio": 9 / 5,
        }
    )
    assert (found["ended"].low, found["ended"].high) == wilson(2, 4)
    assert all(metric.low <= metric.value <= metric.high and metric.n == 4 for metric in found.values())
    assert found["token_f1"].low == 0 and found["token_f1"].high < 1


def test_exact_match_is_measured_only_on_short_references():
    own, wanted = ["red", "x", "many words", "no"], ["red", "y", "word " * 11, "word " * 12]
    found = metrics(own, wanted)
    assert {name: found[name].n for name in OF_SHORT} == dict.fromkeys(OF_SHORT, 2)
    assert found["exact_match"].value == 0.5 and found["rouge_l"].n == 4 and found["rouge_l"].value == 0.25
    assert (found["exact_match"].low, found["exact_match"].high) == wilson(1, 2)
    none = metrics(own[2:], wanted[2:])
    assert none["exact_match"].value is None and "10 words" in none["exact_match"].reason


def test_an_answer_is_well_formed_if_it_ends_without_another_prompt():
    texts = ["red", "", "red\n  User: and blue?", "the User: is here", "endless"]
    written = WrittenTexts(texts, [True] * 4 + [False])
    scores = answer_scores(written, References(["red"] * 5, np.ones(5)), markers=("User:",))
    assert scores["well_formed"].sums[:, 0].tolist() == [1, 0, 0, 1, 0]
    assert scores["ended"].sums[:, 0].tolist() == [1, 1, 1, 1, 0]


def test_a_model_is_compared_with_the_baselines_on_the_same_rows():
    wanted = [*map(str, range(40)), *["long " * 20] * 5]
    own = [text if i % 2 else "?" for i, text in enumerate(wanted)]
    other = [text if i % 4 == 1 else "!" for i, text in enumerate(wanted)]
    draw = np.random.default_rng(0)
    nats, tokens = draw.uniform(1, 9, (2, 45)), draw.integers(1, 9, 45)
    clean = np.arange(45) >= 10
    found = score_answers(
        WrittenTexts(own, [True] * 45, nats[0]),
        References(wanted, tokens),
        {"before": WrittenTexts(other, [False] * 45, nats[1]), "nearest": WrittenTexts(other)},
        clean,
        (),
        500,
        0,
    )
    before, nearest = found.baselines
    assert found.headline == Headline(**vars(found.metrics["exact_match"]), metric="exact_match", split="test")
    assert found.metrics["exact_match"].value == 0.5 and before.metrics["exact_match"].value == 0.25
    assert found.metrics["log_loss"].value == pytest.approx(nats[0].sum() / tokens.sum())
    assert found.metrics["perplexity"].value == pytest.approx(np.exp(nats[0].sum() / tokens.sum()))
    assert "ended" in before.metrics and not {"ended", "log_loss"} & nearest.metrics.keys()
    texts = {"rouge_l": (own, other, wanted)} | dict.fromkeys(OF_SHORT, (own[:40], other[:40], wanted[:40]))
    scorers = {
        "exact_match": exact_match,
        "squad_exact_match": squad_exact_match,
        "token_f1": token_f1,
        "rouge_l": lambda *both: rouge(*both)["rouge_l"],
    }
    assert nearest.differences.keys() == scorers.keys() and nearest.test == "paired bootstrap"
    for name, scorer in scorers.items():  # the long references are in no resample where they do not count
        mine, theirs, right = texts[name]
        expected = paired_bootstrap(scorer(mine, right), scorer(theirs, right), 500, 0)
        assert vars(nearest.differences[name]) == pytest.approx(vars(expected)), name
    assert nearest.p_value == nearest.differences["exact_match"].p_value < 0.01
    loss = before.differences["log_loss"]
    assert loss.value == pytest.approx((nats[0] - nats[1]).sum() / tokens.sum()) and loss.low < loss.high
    alone = metrics(own[10:], wanted[10:], [True] * 35)
    assert found.clean.n == 35 and alone.items() <= found.clean.metrics.items()
    assert found.clean.metrics["log_loss"].value == pytest.approx(nats[0, 10:].sum() / tokens[10:].sum())


def test_without_short_references_the_headline_is_rouge_l():
    long = ["word " * 12, "other " * 12]
    found = score_answers(
        WrittenTexts(long),
        References(long, np.ones(2)),
        {"none": WrittenTexts(["", ""])},
        np.array([False, False]),
        (),
        100,
        seed=0,
    )
    assert found.headline.metric == "rouge_l" and found.headline.value == 1
    assert found.baselines[0].differences.keys() == {"rouge_l"} and found.clean == CleanPart(0, {})
