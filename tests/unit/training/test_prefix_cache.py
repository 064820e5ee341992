"""The cache of frozen states gives what the frozen blocks give, and the same training."""

import pytest
import torch

from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier
from finetune.tasks import classify
from finetune.training.prefix_cache import build_prefix_cache, cache_bytes


def test_states_are_those_of_each_text_alone():
    model = Classifier(GPT(GPTConfig(50, 40, 16, 3, 2)).initialise(0, std=0.2), 2).eval()
    random = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, 50, (length,), generator=random).tolist() for length in (5, 1, 33, 5, 40, 12)]
    for budget in (1, 60, 10**6):
        states = build_prefix_cache(lambda ids: model.lower(ids, 2), rows, budget, torch.device("cpu"))
        for row, state in zip(rows, states, strict=True):
            assert state.shape == (len(row), 16) and not state.requires_grad
            torch.testing.assert_close(state, model.lower(torch.tensor([row]), 2)[0], rtol=0, atol=2e-6)
    assert cache_bytes(rows, 16) == sum(state.untyped_storage().nbytes() for state in states)


@pytest.mark.parametrize("method", ["last-blocks", "head"])
def test_training_from_the_cache_is_training_without_it(toy_job, run_training, monkeypatch, method):
    cached, settings = toy_job(method, epochs=3)
    assert cached.batch([0])[0].shape == (1, cached.lengths[0], 32)
    monkeypatch.setattr(classify, "CACHE_LIMIT", 0)
    plain, _ = toy_job(method, epochs=3)
    assert plain.batch([0])[0].shape == (1, plain.lengths[0])
    _, cached_steps, cached_validations, _ = run_training(cached, settings, name="cached")
    _, plain_steps, plain_validations, _ = run_training(plain, settings, name="plain")
    assert [line["loss"] for line in cached_steps] == pytest.approx([line["loss"] for line in plain_steps], rel=1e-6)
    assert [line["validation"]["log_loss"] for line in cached_validations] == pytest.approx(
        [line["validation"]["log_loss"] for line in plain_validations], rel=1e-6)
    for (name, one), other in zip(cached.model.named_parameters(), plain.model.parameters(), strict=True):
        if name.endswith("qkv.bias"):  # a bias of the keys shifts all scores alike: its gradient is rounding alone
            (one, _, one_v), (other, _, other_v) = one.chunk(3), other.chunk(3)
            one, other = torch.cat([one, one_v]), torch.cat([other, other_v])
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=name)


def test_dropout_leaves_no_cache(toy_job):
    job, _ = toy_job("last-blocks", dropout=0.1)
    assert job.batch([0])[0].dtype == torch.long
