"""Models that begin with a GPT's weights: every tensor of it has its place, and nothing else is touched."""

from dataclasses import replace

import pytest
import torch

from finetune.models.gpt import GPT, GPTConfig
from finetune.models.warm_start import warm_encoder, warm_encoder_decoder

SHAPE = GPTConfig(vocab_size=61, context=24, width=32, layers=3, heads=4, norm_eps=1e-3)
FRESH = {
    "norm_cross.weight",
    "norm_cross.bias",
    *(f"cross_attention.{part}.{kind}" for part in ("q", "kv", "out") for kind in ("weight", "bias")),
}


@pytest.fixture
def gpt() -> GPT:
    """Three blocks, no parameter at a value that an initialisation gives."""
    model = GPT(SHAPE).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(float("norm" in name and "weight" in name), 0.2, generator=generator)
    return model


@pytest.fixture
def ids() -> torch.Tensor:
    """(3, 20)."""
    return torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(2))


def assert_accounted_for(gpt, model, report, copies: int) -> None:
    """Each tensor of the GPT stands where the report says, and what the report calls fresh is all the rest."""
    ours, theirs = dict(model.named_parameters()), dict(gpt.named_parameters())
    assert report.copied.keys() == theirs.keys()
    for name, places in report.copied.items():
        assert len(places) == (1 if name == "token_embedding.weight" else copies)
        for place in places:
            assert place.endswith(name) and torch.equal(ours[place][: len(theirs[name])], theirs[name])
    filled = [place for places in report.copied.values() for place in places]
    assert sorted(filled + report.fresh) == sorted(ours)


@torch.no_grad()
def test_both_sides_take_every_tensor(gpt, ids):
    model, report = warm_encoder_decoder(gpt, seed=3)
    assert_accounted_for(gpt, model, report, copies=2)
    assert set(report.fresh) == {f"decoder.blocks.{i}.{name}" for i in range(3) for name in FRESH}
    assert report.new_tokens == 0 and model.config.norm_eps == 1e-3
    block = model.decoder.blocks[1]
    assert 0.015 < block.cross_attention.kv.weight.std() < 0.025 and (block.norm_cross.weight == 1).all()
    other, _ = warm_encoder_decoder(gpt, seed=4)
    assert not torch.equal(other.decoder.blocks[1].cross_attention.q.weight, block.cross_attention.q.weight)
    assert (model(ids, ids) - gpt(ids)).abs().max() > 1e-3


@torch.no_grad()
def test_with_a_silent_cross_attention_the_decoder_is_the_gpt(gpt, ids):
    model, _ = warm_encoder_decoder(gpt, seed=3, zero_init_cross=True)
    model.eval()
    for source in (ids, ids[:, :2] + 0, ids.flip(1)):
        assert torch.equal(model(source, ids), gpt(ids))
    expected = gpt.generate(ids[:, :4], 12, temperature=0)
    assert model.generate(ids, ids[:, :4], 12, temperature=0).tolist() == expected.tolist()


def test_a_silent_cross_attention_learns(gpt, ids):
    model, _ = warm_encoder_decoder(gpt, seed=3, zero_init_cross=True)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    for _ in range(2):  # its output moves first, and with that the rest
        optimizer.zero_grad()
        model.loss_sum(ids, ids, ids.roll(-1, 1)).backward()
        optimizer.step()
    assert all(parameter.grad.any() for parameter in model.parameters())


@torch.no_grad()
def test_an_encoder_takes_every_tensor_and_adds_tokens(gpt, ids):
    encoder, report = warm_encoder(gpt, seed=3, new_tokens=2)
    assert_accounted_for(gpt, encoder, report, copies=1)
    assert report.fresh == [] and report.new_tokens == 2
    assert encoder.token_embedding.weight.shape == (63, 32) and 0 < encoder.token_embedding.weight[61:].std() < 0.03
    single = ids[:, :1]  # one token sees no other, so that causal or not is the same
    plain, _ = warm_encoder(gpt, seed=3)
    torch.testing.assert_close(plain.eval()(single), gpt(single), atol=1e-6, rtol=0)
    assert (plain(ids) - gpt(ids))[:, :-1].abs().max() > 0.1


@torch.no_grad()
def test_the_gpt_stays_its_own(gpt, ids):
    before = gpt(ids)
    model, _ = warm_encoder_decoder(gpt, seed=3)
    for parameter in model.parameters():
        parameter.zero_()
    assert torch.equal(gpt(ids), before)


def test_dropout_comes_along(gpt):
    gpt.config = replace(gpt.config, dropout=0.3)
    for model, _ in (warm_encoder_decoder(gpt, seed=3), warm_encoder(gpt, seed=3)):
        assert model.config.dropout == 0.3


def test_fewer_blocks_on_each_side_are_the_lowest(gpt):
    for layers in ((1, 2), (2, 1), (3, 1)):
        model, report = warm_encoder_decoder(gpt, seed=3, layers=layers)
        assert (len(model.encoder.blocks), len(model.decoder.blocks)) == layers
        assert report.copied["blocks.0.mlp.up.weight"] == [
            f"{side}.blocks.0.mlp.up.weight" for side in ("encoder", "decoder")
        ]
        assert f"blocks.{max(layers)}.mlp.up.weight" not in report.copied
        ours, theirs = dict(model.named_parameters()), dict(gpt.named_parameters())
        assert all(torch.equal(ours[place], theirs[name]) for name, places in report.copied.items() for place in places)
        assert set(report.fresh) == {f"decoder.blocks.{i}.{name}" for i in range(layers[1]) for name in FRESH}
