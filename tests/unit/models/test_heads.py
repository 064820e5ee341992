"""The classification head: which token it reads, and the ways to the same logits."""

import pytest
import torch

from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier, EncoderDecoderClassifier


@pytest.fixture(params=[1, 2, 3])
def model(request) -> Classifier:
    """One to three blocks of width 32, four classes."""
    shape = GPTConfig(vocab_size=97, context=24, width=32, layers=request.param, heads=4)
    model = Classifier(GPT(shape), 4).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    return model


@pytest.fixture
def input_ids() -> torch.Tensor:
    """(4, 24)."""
    return torch.randint(0, 97, (4, 24), generator=torch.Generator().manual_seed(1))


LAST = torch.tensor([0, 5, 22, 23])


@torch.no_grad()
def test_the_head_reads_the_normed_state_of_the_last_real_token(model, input_ids):
    states = model.body.hidden_states(input_ids)
    expected = torch.stack([model.head.weight @ states[row, last] for row, last in enumerate(LAST)])
    torch.testing.assert_close(model(input_ids, LAST), expected, atol=1e-5, rtol=0)
    assert model.head.bias is None and expected.shape == (4, 4)


@torch.no_grad()
def test_every_way_in_gives_the_same_logits(model, input_ids):
    expected = model(input_ids, LAST)
    for first in range(1, len(model.body.blocks) + 1):
        torch.testing.assert_close(model(model.lower(input_ids, LAST, first), LAST, first), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_tokens_behind_the_last_one_do_not_count_and_all_others_do(model, input_ids):
    expected = model(input_ids, LAST)
    for row, last in enumerate(LAST):
        for t in range(24):
            changed = input_ids.clone()
            changed[row, t] = (changed[row, t] + 1) % 97
            moved = (model(changed, LAST) - expected).abs().amax(-1)
            assert (moved[row] > 1e-5) == (t <= last), (row, t)
            assert moved[torch.arange(4) != row].max() < 1e-5


def test_gradients_reach_the_blocks_that_ran_and_no_others(model, input_ids):
    first = len(model.body.blocks) - 1
    if first:
        model(model.lower(input_ids, LAST, first).detach(), LAST, first).sum().backward()
    else:
        model(input_ids, LAST).sum().backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert "head.weight" in moved and f"body.blocks.{first}.mlp.up.weight" in moved
    assert ("body.token_embedding.weight" in moved) == (first == 0)
    assert not any(name.startswith(f"body.blocks.{i}.") for name in moved for i in range(first))


def test_a_fresh_head_is_seeded_and_small(model):
    a = model.initialise_head(1).head.weight.clone()
    b = model.initialise_head(1).head.weight.clone()
    c = model.initialise_head(2).head.weight.clone()
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert a.std().item() == pytest.approx(0.02, rel=0.25)


@torch.no_grad()
def test_the_head_of_an_encoder_decoder_reads_the_state_at_the_start_token(input_ids):
    body = EncoderDecoder(EncoderDecoderConfig(97, 24, 32, 2, 4, encoder_layers=1)).initialise(2, std=0.2)
    model = EncoderDecoderClassifier(body, 3, start=96).eval()
    start = torch.tensor([[96]])
    alone = [body.hidden_states(input_ids[row : row + 1, : last + 1], start)[0, 0] for row, last in enumerate(LAST)]
    torch.testing.assert_close(model(input_ids, LAST), torch.stack(alone) @ model.head.weight.T, atol=1e-5, rtol=0)
