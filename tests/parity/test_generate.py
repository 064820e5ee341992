"""Decoding against transformers: greedy, beam search and every rule on the logits; and proof that this can fail."""

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation import logits_process as theirs

from finetune.checkpoints.convert import gpt_tensors
from finetune.models import sampling
from finetune.models.cache import KVCache, LayerCache
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.sampling import PAD, Decoding, filter_logits

NEW = 14
SHAPES = [
    GPTConfig(vocab_size=50, context=32, width=16, layers=1, heads=1),
    GPTConfig(vocab_size=97, context=40, width=32, layers=2, heads=4),
    GPTConfig(vocab_size=300, context=24, width=48, layers=3, heads=3),
    GPTConfig(vocab_size=64, context=64, width=24, layers=4, heads=2),
    GPTConfig(vocab_size=129, context=30, width=64, layers=2, heads=8),
]


@dataclass(frozen=True)
class Pair:
    """The same random weights in our GPT and in transformers', and ten prompts of unequal length."""

    ours: GPT
    theirs: GPT2LMHeadModel
    prompts: list[torch.Tensor]  # (T_i,) each
    left: torch.Tensor  # (10, T), padded on the left
    right: torch.Tensor
    end: int  # a token that comes up

    def reference(self, **options) -> torch.Tensor:
        """What transformers adds to the prompts: (10 * samples, new)."""
        pad = dict(attention_mask=(self.left != PAD).long(), pad_token_id=0, eos_token_id=None)
        found = self.theirs.generate(self.left.clamp(min=0), max_new_tokens=NEW, do_sample=False, **(pad | options))
        return found[:, self.left.shape[1] :]

    def continued(self, ids: torch.Tensor, **options) -> torch.Tensor:
        """What we add to padded prompts."""
        found = self.ours.generate(ids.clamp(min=0), NEW, mask=ids != PAD, **options)
        return found[:, ids.shape[1] :]


def make_pair(shape: GPTConfig) -> Pair:
    """Weights at standard deviation 0.2, where no two tokens are equally likely."""
    generator = torch.Generator().manual_seed(shape.width)
    ours = GPT(shape).eval()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.2, generator=generator)
    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.context,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
    )
    reference = GPT2LMHeadModel(config).eval()
    missing = reference.load_state_dict(gpt_tensors(ours), strict=False)
    assert not missing.unexpected_keys and missing.missing_keys == ["lm_head.weight"]
    lengths = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    prompts = [torch.randint(0, shape.vocab_size, (length,), generator=generator) for length in lengths]
    right = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_value=PAD)
    left = torch.stack([row.roll(10 - length) for row, length in zip(right, lengths, strict=True)])
    free = ours.generate(left.clamp(min=0), NEW, mask=left != PAD, temperature=0)[:, 12:]
    end = Counter(free.flatten().tolist()).most_common(1)[0][0]
    return Pair(ours, reference, prompts, left, right, end)


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: f"{shape.layers}x{shape.width}")
def pair(request) -> Pair:
    """One of five shapes."""
    return make_pair(request.param)


@pytest.fixture(scope="module")
def one_pair() -> Pair:
    """Where one shape is enough."""
    return make_pair(SHAPES[1])


def assert_same_greedy(pair: Pair) -> None:
    """transformers in one batch; we in one batch padded on either side, alone, and without a cache."""
    expected = pair.reference()
    assert pair.continued(pair.left, temperature=0).tolist() == expected.tolist()
    assert pair.continued(pair.right, temperature=0).tolist() == expected.tolist()
    for prompt, row in zip(pair.prompts, expected, strict=True):
        assert pair.ours.generate(prompt[None], NEW, temperature=0)[0, len(prompt) :].tolist() == row.tolist()
        ids = prompt[None]
        with torch.no_grad():
            for _ in range(NEW):
                ids = torch.cat([ids, pair.ours(ids)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
        assert ids[0, len(prompt) :].tolist() == row.tolist()


def assert_same_beams(pair: Pair, beams: int = 3, **options) -> None:
    """The best sequence, or the best few."""
    ours = {"samples" if name == "num_return_sequences" else name: value for name, value in options.items()}
    expected = pair.reference(num_beams=beams, eos_token_id=pair.end, pad_token_id=pair.end, **options)
    found = pair.continued(pair.left, beams=beams, end=pair.end, **ours)
    assert found.tolist() == expected.tolist()


def test_greedy_equals_transformers(pair):
    assert_same_greedy(pair)


def test_greedy_stops_at_the_end_as_transformers_does(pair):
    expected = pair.reference(eos_token_id=pair.end, pad_token_id=pair.end)
    found = pair.continued(pair.left, temperature=0, end=pair.end)
    assert found.tolist() == expected.tolist()
    assert (found == pair.end).any()


@pytest.mark.parametrize(
    "options",
    [{}, {"length_penalty": 0.0}, {"length_penalty": 3.0}, {"length_penalty": -1.0}, {"num_return_sequences": 3}],
    ids=str,
)
def test_beam_search_equals_transformers(pair, options):
    assert_same_beams(pair, **options)


def test_beam_search_keeps_the_rules_against_repetition(pair):
    longest = pair.left[-1:]  # without pads, which transformers takes for tokens here
    for name, ours, value in (
        ("repetition_penalty", "repetition_penalty", 1.5),
        ("no_repeat_ngram_size", "no_repeat_ngram", 1),
    ):
        expected = pair.reference(num_beams=3, **{name: value})[-1:]
        assert pair.continued(longest, beams=3, **{ours: value}).tolist() == expected.tolist()
        assert pair.continued(longest, beams=3).tolist() != expected.tolist()


def test_wide_beams_equal_transformers(pair):
    assert_same_beams(pair, beams=8)
    alone = pair.ours.generate(pair.prompts[4][None], NEW, beams=8, end=pair.end)[0, 5:].tolist()
    together = pair.continued(pair.left, beams=8, end=pair.end)[4].tolist()
    assert together[: len(alone)] == alone and set(together[len(alone) :]) <= {pair.end}


def test_the_length_penalty_changes_what_is_best(pair):
    short, long = (pair.continued(pair.left, beams=4, end=pair.end, length_penalty=penalty) for penalty in (-2, 4))
    assert (short == pair.end).sum() > (long == pair.end).sum() or short.shape[1] < long.shape[1]


def positions_late_by_one(patch):
    right = KVCache.positions
    patch.setattr(KVCache, "positions", lambda self, T, device: right(self, T, device) + (self.length > 0))


def newest_key_unseen(patch):
    right = LayerCache.extend

    def extend(self, k, v):
        keys, values = right(self, k, v)
        return (keys[:, :, :-1], values[:, :, :-1]) if self.cache.length else (keys, values)

    patch.setattr(LayerCache, "extend", extend)
    patch.setattr(KVCache, "mask", lambda self, *_: None)


def pads_are_seen(patch):
    right = KVCache.clear
    patch.setattr(KVCache, "clear", lambda self, start=None: right(self))


def pads_count_as_positions(patch):
    patch.setattr(KVCache, "positions", lambda self, T, device: torch.arange(self.length, self.length + T))


@pytest.mark.parametrize("sabotage", [positions_late_by_one, newest_key_unseen, pads_are_seen, pads_count_as_positions])
def test_a_wrong_cache_fails_the_comparison(one_pair, monkeypatch, sabotage):
    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        sabotage(patch)
        assert_same_greedy(one_pair)
    assert_same_greedy(one_pair)


def test_a_cache_that_does_not_follow_its_beams_fails_the_comparison(one_pair, monkeypatch):
    right = KVCache.select

    def stay(self, rows):
        right(self, rows if self.keys.shape[1] != len(rows) else torch.arange(len(rows)))

    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(KVCache, "select", stay)
        assert_same_beams(one_pair, beams=4, length_penalty=0.0)
        assert_same_beams(one_pair, beams=4, length_penalty=2.0)


@pytest.fixture
def scores() -> torch.Tensor:
    """(64, 120), no two alike."""
    return torch.randn(64, 120, generator=torch.Generator().manual_seed(1)) * 3


@pytest.fixture
def ids() -> torch.Tensor:
    """(64, 30) of few different tokens, so that n-grams come twice."""
    return torch.randint(0, 12, (64, 30), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("k", [1, 2, 17, 120, 500])
def test_top_k_equals_transformers(scores, ids, k):
    torch.testing.assert_close(filter_logits(scores, top_k=k), theirs.TopKLogitsWarper(k)(ids, scores))


@pytest.mark.parametrize("p", [0.001, 0.3, 0.9, 0.999])
def test_top_p_equals_transformers(scores, ids, p):
    torch.testing.assert_close(filter_logits(scores, top_p=p), theirs.TopPLogitsWarper(p)(ids, scores))


@pytest.mark.parametrize("p", [0.0, 0.01, 0.2, 1.0])
def test_min_p_equals_transformers(scores, ids, p):
    torch.testing.assert_close(filter_logits(scores, min_p=p), theirs.MinPLogitsWarper(p)(ids, scores))


def test_all_filters_together_equal_transformers(scores, ids):
    expected = scores
    for step in (
        theirs.TemperatureLogitsWarper(0.7),
        theirs.TopKLogitsWarper(20),
        theirs.TopPLogitsWarper(0.9),
        theirs.MinPLogitsWarper(0.1),
    ):
        expected = step(ids, expected)
    torch.testing.assert_close(filter_logits(scores, 0.7, 20, 0.9, 0.1), expected)


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 5.0])
def test_the_repetition_penalty_equals_transformers(scores, ids, penalty):
    expected = theirs.RepetitionPenaltyLogitsProcessor(penalty)(ids, scores)
    torch.testing.assert_close(Decoding(repetition_penalty=penalty).process(scores, ids), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 30, 31])
def test_no_repeated_ngram_equals_transformers(scores, ids, n):
    expected = theirs.NoRepeatNGramLogitsProcessor(n)(ids, scores)
    torch.testing.assert_close(Decoding(no_repeat_ngram=n).process(scores, ids), expected)
    assert expected.isinf().any() == (n < 5)  # the case is no empty one


def test_pads_are_no_tokens_to_the_rules(scores, ids):
    padded = torch.cat([torch.full((64, 5), PAD), ids], dim=1)
    for rules in (Decoding(repetition_penalty=1.7), Decoding(no_repeat_ngram=1), Decoding(no_repeat_ngram=2)):
        torch.testing.assert_close(rules.process(scores, padded), rules.process(scores, ids))
    two = torch.cat([torch.full((64, 5), PAD), ids[:, :1]], dim=1)  # shorter than the n-gram
    assert torch.equal(sampling.ban_repeated_ngrams(scores, two, 3), scores)
