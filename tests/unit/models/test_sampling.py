"""What is drawn, and how often, against probabilities worked out by hand. tests/parity has the rules' references."""

import pytest
import torch
from scipy.stats import chisquare

from finetune.errors import RecipeError
from finetune.models.sampling import Decoding, ban_repeated_ngrams, filter_logits

FOUR = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
DRAWS = 100_000


def kept(logits: torch.Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero()[:, 0].tolist() for row in logits]


def test_a_top_p_of_one_keeps_every_token():
    logits = torch.randn(1, 50257, generator=torch.Generator().manual_seed(0)) * 3
    assert torch.equal(filter_logits(logits, top_p=1.0), logits)
    assert filter_logits(logits, top_p=0.99).isinf().any()


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    for p, size in ((0.4, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1.0, 4)):
        assert kept(filter_logits(FOUR, top_p=p)) == [list(range(size))]
    logits = 2 * torch.randn(50, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for p in (0.05, 0.5, 0.95):
        for row, ids in zip(logits.softmax(dim=-1), kept(filter_logits(logits, top_p=p)), strict=True):
            chosen = row[ids].sort().values
            assert chosen.sum() >= p > chosen[1:].sum()  # without its least token the set would miss p
            assert chosen[0] >= row.sort().values[-len(ids)]  # and no set of that size has more


def test_the_other_filters_keep_what_they_say():
    assert kept(filter_logits(FOUR, top_k=2)) == [[0, 1]]
    assert kept(filter_logits(FOUR, min_p=0.29)) == [[0, 1, 2]] and kept(filter_logits(FOUR, min_p=0.31)) == [[0, 1]]
    assert kept(filter_logits(FOUR, min_p=1.0)) == [[0]]
    assert kept(filter_logits(FOUR, top_k=2, top_p=0.6)) == [[0]]  # 0.5 of 0.8 reaches it; 0.5 of 1 does not
    assert kept(filter_logits(FOUR, top_p=0.6)) == [[0, 1]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0, "top_k": 3},
        {"top_p": 0.9},
        {"min_p": 0.2},
        {"temperature": 2.0, "top_k": 3, "top_p": 0.7, "min_p": 0.1},
        {"repetition_penalty": 2.0},
        {"no_repeat_ngram": 2},
    ],
    ids=str,
)
def test_draws_follow_the_exact_distribution(options):
    logits, ids = torch.tensor([[1.2, -0.3, 0.4, 2.0, -1.0]]), [3, 1, 2, 3]
    weights = logits[0].double()
    penalty = options.get("repetition_penalty", 1.0)
    weights = torch.stack([(w * penalty if w < 0 else w / penalty) if i in ids else w for i, w in enumerate(weights)])
    if options.get("no_repeat_ngram") == 2:
        weights[1] = -torch.inf  # 3 1 was there
    p = (weights / options.get("temperature", 1.0)).softmax(dim=0).tolist()
    ranked = sorted(range(5), key=lambda i: -p[i])[: options.get("top_k", 5)]
    total = sum(p[i] for i in ranked)
    reached = [sum(p[i] for i in ranked[:n]) / total for n in range(len(ranked))]
    ranked = [i for i, before in zip(ranked, reached, strict=True) if before < options.get("top_p", 2.0)]
    ranked = [i for i in ranked if p[i] >= options.get("min_p", 0.0) * p[ranked[0]] and p[i] > 0]
    generator = torch.Generator().manual_seed(11)
    drawn = Decoding(**options).choose(logits.expand(DRAWS, -1), torch.tensor([ids]).expand(DRAWS, -1), generator)
    counts = [int((drawn == i).sum()) for i in ranked]
    assert sum(counts) == DRAWS  # nothing else was drawn
    expected = [DRAWS * p[i] / sum(p[j] for j in ranked) for i in ranked]
    assert chisquare(counts, expected).pvalue > 1e-3
    if len(ranked) > 2:  # the test tells a neighbouring distribution apart
        assert (
            chisquare(counts, [sum(expected) * (e**0.9 / sum(x**0.9 for x in expected)) for e in expected]).pvalue
            < 1e-3
        )


def test_temperature_zero_takes_the_likeliest():
    logits = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    found = Decoding(temperature=0).choose(logits, torch.zeros(30, 1, dtype=torch.long), torch.Generator())
    assert found.tolist() == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"temperature": -0.1}, "temperature is out of range; got -0.1"),
        ({"top_k": 0}, "top_k"),
        ({"temperature": 1e-50}, "temperature is out"),
        ({"temperature": float("inf")}, "temperature is out"),
        ({"beams": 2, "length_penalty": 11.0}, "length_penalty is out of range; got 11.0; known: from -10 to 10"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": -1.0}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"no_repeat_ngram": 0}, "no_repeat_ngram"),
        ({"beams": 0}, "beams"),
        ({"samples": 0}, "samples"),
        ({"temperature": float("nan")}, "temperature"),
        ({"seed": -1}, "seed is out of range"),
        ({"seed": 2**63}, "seed is out of range"),
        ({"beams": 2, "temperature": 0.7}, "beam search does not sample; got temperature 0.7"),
        ({"beams": 2, "samples": 3}, "known: at most 2 with beam search"),
        ({"temperature": 0, "samples": 2}, "temperature 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(RecipeError, match=words):
        Decoding(**options)


def test_a_temperature_near_zero_draws_the_likeliest():
    logits = torch.tensor([[1.0, 3.0, 2.9, -8.0]]) * 1e4
    drawn = Decoding(temperature=1e-4).choose(logits, torch.zeros(1, 1, dtype=torch.long), torch.Generator())
    assert drawn.tolist() == [1]


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.0}])
def test_where_every_token_would_repeat_none_is_banned(options):
    logits, ids = torch.tensor([[0.0, 9.0, 1.0], [0.0, 9.0, 1.0]]), torch.tensor([[0, 1, 2], [1, 1, 2]])
    chosen = Decoding(no_repeat_ngram=1, **options).choose(logits, ids, torch.Generator().manual_seed(0))
    assert chosen.tolist() == [1, 0]


def test_the_highest_values_that_make_sense_are_allowed():
    assert Decoding(seed=2**63 - 1).seed == 2**63 - 1 and Decoding(beams=2, samples=2).samples == 2


@pytest.mark.parametrize("n", [1, 2, 3])
def test_what_would_repeat_an_ngram_is_banned(n):
    ids = torch.randint(4, (20, 11), generator=torch.Generator().manual_seed(n))
    found = ban_repeated_ngrams(torch.zeros(20, 7), ids, n)
    for row, own in zip(ids.tolist(), found, strict=True):
        seen = {tuple(row[at : at + n]) for at in range(len(row) - n + 1)}
        assert own.isinf().tolist() == [(*row[len(row) - n + 1 :], token) in seen for token in range(7)]
