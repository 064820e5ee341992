"""Three architectures of one size, on the same rows: their sizes, what they read, what they write."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from finetune.comparisons.architectures.models import (
    BOTH,
    CLASSIFY,
    DECODER,
    ENCODER,
    PRETRAINED,
    RANDOM,
    TRAININGS,
    WHOLE,
    Training,
    build_model,
    class_job,
    class_logits,
    count,
    equal_layers,
    pair_job,
    pair_nll,
    with_head,
    write_targets,
)
from finetune.comparisons.architectures.settings import Architectures
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.gpt import GPT, GPTConfig
from finetune.tasks.classify.job import Examples
from finetune.tasks.seq2seq.layout import Pair
from finetune.tasks.seq2seq.model import family_of
from finetune.tokenizer import Tokenizer
from finetune.training.token_rows import TokenRows

CPU, TOKENIZER = torch.device("cpu"), Tokenizer.of_bytes()
SHAPE = GPTConfig(vocab_size=257, context=64, width=16, layers=3, heads=2)
END = TOKENIZER.end_of_text
PAIRS = [
    Pair(TOKENIZER.encode(source), TOKENIZER.encode(target))
    for source, target in (("1", "one"), ("23", "two three"), ("4,5", "four"), ("6", "six"))
]


@pytest.fixture
def gpt() -> GPT:
    """Three tiny blocks over bytes."""
    return GPT(SHAPE).initialise(1, std=0.1)


def built(gpt: GPT, architecture: str, start: str = PRETRAINED) -> torch.nn.Module:
    """A model of the comparison, without new tokens."""
    return build_model(gpt, Training(CLASSIFY, architecture, start), 5, 0, equal_layers(gpt.config)).eval()


@pytest.mark.parametrize(
    "config, within",
    [(GPTConfig(vocab_size=8192, context=256, width=256, layers=6, heads=4), 0.01), (GPTConfig(), 0.0065)],
    ids=["mini", "gpt2"],
)
def test_sizes_are_equal_within_what_is_stated(config, within):
    encoder, decoder = equal_layers(config)
    with torch.device("meta"):
        sizes = [
            count(GPT(config)),
            count(
                EncoderDecoder(EncoderDecoderConfig(**asdict(config) | {"layers": decoder, "encoder_layers": encoder}))
            ),
        ]
    assert abs(sizes[1] / sizes[0] - 1) <= within and abs(encoder - decoder) <= config.layers // 6


def test_the_models_are_of_one_size_but_for_the_one_with_all_blocks(gpt):
    for start in (RANDOM, PRETRAINED):
        sizes = {name: count(built(gpt, name, start)) for name in (ENCODER, DECODER, BOTH)}
        assert sizes[ENCODER] == sizes[DECODER]
    assert count(built(gpt, BOTH, WHOLE)) > 1.5 * sizes[BOTH]


def test_pretrained_blocks_are_the_lowest_and_random_ones_are_not_the_gpts(gpt):
    model = built(gpt, BOTH)
    layers = equal_layers(SHAPE)
    assert (len(model.encoder.blocks), len(model.decoder.blocks)) == layers
    for side in (model.encoder, model.decoder):
        for own, theirs in zip(side.blocks, gpt.blocks, strict=False):
            assert torch.equal(own.mlp.up.weight, theirs.mlp.up.weight)
        assert torch.equal(side.norm.weight, gpt.norm.weight)
    assert not torch.equal(built(gpt, BOTH, RANDOM).token_embedding.weight, gpt.token_embedding.weight)


def test_a_class_does_not_depend_on_pads(gpt):
    rows = TokenRows.of([[[5, 6, 7], [8] * 20, [1, 2, 3, 4, 9]]], 257)
    for architecture in (ENCODER, DECODER, BOTH):
        model = with_head(built(gpt, architecture), 3, END, seed=2).eval()
        together, alone = (class_logits(model, rows, budget, CPU) for budget in (1000, 1))
        np.testing.assert_allclose(together, alone, atol=1e-5)
        assert np.ptp(together, axis=0).min() > 1e-4  # and does depend on the text


def test_all_three_classifiers_meet_the_same_rows(gpt):
    part = Examples([0, 1], TokenRows.of([[[5, 6, 7], [8]]], 257), np.array([0, 1]))
    jobs = [class_job(with_head(built(gpt, name), 2, END, 2), part, part, 64, CPU) for name in (ENCODER, DECODER, BOTH)]
    for job in jobs:
        assert (job.lengths, job.weights) == ([3, 1], [1.0, 1.0])
        assert all(map(torch.equal, job.batch([1, 0]), jobs[0].batch([1, 0])))
        logits = torch.from_numpy(class_logits(job.model.eval(), part.ids, 64, CPU))
        found = job.loss_sum(job.model, job.batch([0, 1])).item()
        assert found == pytest.approx(-logits.log_softmax(1)[[0, 1], [0, 1]].sum().item(), abs=1e-5)
        assert set(job.validate(job.model)) == {"log_loss", "accuracy", "f1_macro"}


@pytest.mark.parametrize("ends", [True, False])
def test_pairs_count_what_they_supervise(gpt, ends):
    pairs = [Pair(pair.source, pair.target, ends, separated=ends) for pair in PAIRS]
    for name in (DECODER, BOTH):
        job = pair_job(built(gpt, name), pairs, pairs, END, CPU)
        *_, targets = job.batch([0, 1, 2, 3])
        assert int((targets != -100).sum()) == sum(job.weights)
        assert job.lengths == [len(pair.source) + 1 + len(pair.answer(END)) for pair in pairs]


def test_both_predict_the_same_tokens(gpt):
    """The nats of a pair are those of its target's tokens, by the whole model's logits."""
    pair = PAIRS[1]
    answer = torch.tensor(pair.answer(END))
    decoder, both = built(gpt, DECODER), built(gpt, BOTH)
    with torch.no_grad():
        one = decoder(torch.tensor([[*pair.source, END, *pair.target]]))[0, len(pair.source) :]
        two = both(torch.tensor([pair.source]), torch.tensor([[END, *pair.target]]))[0]
    for model, logits in ((decoder, one), (both, two)):
        expected = -logits.log_softmax(-1)[torch.arange(len(answer)), answer].sum().item()
        assert pair_nll(family_of(model, END), [pair], CPU)[0] == pytest.approx(expected, rel=1e-5)


def test_the_written_weights_are_the_trained_ones(gpt):
    for name in (DECODER, BOTH):
        model = built(gpt, name)
        job = pair_job(model, PAIRS, PAIRS, END, CPU)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(80):
            optimizer.zero_grad()
            job.loss_sum(job.model, job.batch([0, 1, 2, 3])).backward()
            optimizer.step()
        model.eval()
        expected = ["one", "two three", "four", "six"]
        assert write_targets(model, PAIRS, TOKENIZER, CPU) == write_targets(model, PAIRS, TOKENIZER, CPU, 1) == expected


def test_a_recipe_trains_all_of_them():
    assert set(Architectures().trainings) == set(TRAININGS)
