"""The cache of frozen states gives what the frozen blocks give, and the same training."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier
from finetune.tasks.classify import job as classify_job
from finetune.training.prefix_cache import build_prefix_cache, cache_bytes


def test_states_are_those_of_each_text_alone():
    model = Classifier(GPT(GPTConfig(50, 40, 16, 3, 2)).initialise(0, std=0.2), 2).eval()
    random = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, 50, (length,), generator=random).tolist() for length in (5, 1, 33, 5, 40, 12)]
    for budget in (1, 60, 10**6):
        states = build_prefix_cache(lambda ids, last: model.lower(ids, last, 2), rows, budget, torch.device("cpu"))
        for row, state in zip(rows, states, strict=True):
            assert state.shape == (len(row), 16) and not state.requires_grad
            alone = model.lower(torch.tensor([row]), torch.tensor([len(row) - 1]), 2)[0]
            torch.testing.assert_close(state, alone, rtol=0, atol=2e-6)
    assert cache_bytes(rows, 16) == sum(state.untyped_storage().nbytes() for state in states)
    last = build_prefix_cache(
        lambda ids, last: model.lower(ids, last, 2), rows, 60, torch.device("cpu"), last_only=True
    )
    for one, state in zip(last, states, strict=True):
        torch.testing.assert_close(one, state[-1:], rtol=0, atol=2e-6)
    assert cache_bytes(rows, 16, last_only=True) == sum(state.untyped_storage().nbytes() for state in last)


@pytest.mark.parametrize(
    "method, more",
    [("last-blocks", {}), ("head", {}), ("lora", {"lora_targets": ("blocks.1.*",), "lora_dropout": 0.2})],
)
def test_training_from_the_cache_is_training_without_it(toy_job, run_training, monkeypatch, method, more):
    more |= {"micro_batch_tokens": 10**6}  # each step in one part: dropout draws the same
    cached, settings = toy_job(method, epochs=3, **more)
    assert cached.batch([0])[0].shape == (1, 1 if method == "head" else cached.lengths[0], 32)
    monkeypatch.setattr(classify_job, "CACHE_LIMIT", 0)
    plain, _ = toy_job(method, epochs=3, **more)
    assert plain.batch([0])[0].shape == (1, plain.lengths[0])
    _, cached_steps, cached_validations, _ = run_training(cached, settings, name="cached")
    _, plain_steps, plain_validations, _ = run_training(plain, settings, name="plain")
    assert [line["loss"] for line in cached_steps] == pytest.approx([line["loss"] for line in plain_steps], rel=1e-6)
    assert [line["validation"]["log_loss"] for line in cached_validations] == pytest.approx(
        [line["validation"]["log_loss"] for line in plain_validations], rel=1e-6
    )
    for (name, one), other in zip(cached.model.named_parameters(), plain.model.parameters(), strict=True):
        if name.endswith("qkv.bias"):  # a bias of the keys shifts all scores alike: its gradient is rounding alone
            (one, _, one_v), (other, _, other_v) = one.chunk(3), other.chunk(3)
            one, other = torch.cat([one, one_v]), torch.cat([other, other_v])
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=name)


def test_a_cache_takes_a_quarter_of_the_free_memory_at_most(toy_job, monkeypatch):
    """Two blocks of which one is frozen: a state of 32 numbers for each token of 60 texts."""
    import psutil

    job, _ = toy_job("last-blocks")
    size = 4 * 32 * (sum(job.lengths) + sum(len(text) for text in texts_of_validation()))
    for free, cached in ((4 * size + 8, True), (4 * size, False)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        assert (toy_job("last-blocks")[0].batch([0])[0].dim() == 3) == cached
    assert toy_job("head")[0].batch([0])[0].dim() == 3  # a state a text


def texts_of_validation():
    return runpy.run_path(str(Path(__file__).parents[2] / "toy.py"))["toy_texts"]()[0][44:]


@pytest.mark.parametrize(
    "method, settings",
    [
        ("last-blocks", {"dropout": 0.1}),
        ("full", {}),
        ("lora", {}),
        ("lora", {"lora_targets": ("blocks.0.mlp.up",)}),
        ("lora", {"lora_targets": ("blocks.1.*",), "dropout": 0.1}),
    ],
)
def test_nothing_that_moves_or_drops_is_cached(toy_job, method, settings):
    job, _ = toy_job(method, **settings)
    assert job.batch([0])[0].dtype == torch.long
