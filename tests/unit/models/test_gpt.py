"""What GPT promises on its own, held against textbook formulas in fp64 and published counts."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from finetune.errors import WeightsError
from finetune.hub.registry import weights_registry
from finetune.models.gpt import GPT, IGNORE, MLP, Attention, GPTConfig, causal_mask_at, gather_positions
from finetune.models.heads import LossModule

SHAPE = GPTConfig(vocab_size=97, context=24, width=32, layers=3, heads=4)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter normal with standard deviation 0.2."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    return module.eval()


@pytest.fixture
def model() -> GPT:
    """Three blocks of width 32."""
    return randomised(GPT(SHAPE))


@pytest.fixture
def input_ids() -> torch.Tensor:
    """(5, 24)."""
    return torch.randint(0, 97, (5, 24), generator=torch.Generator().manual_seed(1))


def test_the_shapes_have_the_published_numbers_of_parameters():
    published = {
        (12, 768, 12): 124_439_808,
        (24, 1024, 16): 354_823_168,
        (36, 1280, 20): 774_030_080,
        (48, 1600, 25): 1_557_611_200,
    }
    for (layers, width, heads), parameters in published.items():
        config = GPTConfig(width=width, layers=layers, heads=heads)
        with torch.device("meta"):
            assert sum(parameter.numel() for parameter in GPT(config).parameters()) == parameters


@pytest.mark.parametrize(
    "wrong",
    [{"heads": 5}, {"heads": 0}, {"layers": 0}, {"vocab_size": 0}, {"context": 0}, {"width": 0}, {"width": -32}],
)
def test_a_shape_that_is_none_is_an_error(wrong):
    with pytest.raises(WeightsError, match="not a valid GPT-2 shape"):
        GPTConfig(**{**SHAPE.__dict__, **wrong})


def test_initialise_is_seeded_and_scales_the_residual_layers():
    config = GPTConfig(vocab_size=500, context=64, width=128, layers=8, heads=4)
    a, b, c = GPT(config).initialise(1), GPT(config).initialise(1), GPT(config).initialise(2)
    for (name, x), y, z in zip(a.named_parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(x, y)
        if name.endswith("bias"):
            assert not x.any()
        elif "norm" in name:
            assert (x == 1).all()
        else:
            expected = 0.02 / math.sqrt(16) if ".out." in name or ".down." in name else 0.02
            assert x.std().item() == pytest.approx(expected, rel=0.05) and not torch.equal(x, z)
            assert abs(x.mean().item()) < expected / 10


def test_attention_is_softmax_of_scaled_products_over_what_came_before():
    attention = randomised(Attention(SHAPE)).double()
    x = torch.randn(2, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = torch.zeros(2, 7, 32, dtype=torch.float64)
    q, k, v = (x @ w.T + b for w, b in zip(attention.qkv.weight.split(32), attention.qkv.bias.split(32), strict=True))
    for b in range(2):
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            for t in range(7):
                scores = torch.stack([q[b, t, part] @ k[b, s, part] / math.sqrt(8) for s in range(t + 1)])
                weights = scores.exp() / scores.exp().sum()
                expected[b, t, part] = sum(weights[s] * v[b, s, part] for s in range(t + 1))
    torch.testing.assert_close(attention(x), expected @ attention.out.weight.T + attention.out.bias)


def test_gelu_is_the_tanh_form():
    mlp = randomised(MLP(SHAPE)).double()
    x = torch.linspace(-4, 4, 64, dtype=torch.float64).view(2, 32)
    inner = x @ mlp.up.weight.T + mlp.up.bias
    gelu = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
    torch.testing.assert_close(mlp(x), gelu @ mlp.down.weight.T + mlp.down.bias)


@torch.no_grad()
def test_a_token_never_sees_what_follows_it(model, input_ids):
    logits = model(input_ids)
    for t in (0, 1, 11, 22):
        changed = input_ids.clone()
        changed[:, t + 1 :] = (changed[:, t + 1 :] + 1) % 97
        other = model(changed)
        torch.testing.assert_close(other[:, : t + 1], logits[:, : t + 1], atol=1e-5, rtol=0)
        assert (other[:, t + 1 :] - logits[:, t + 1 :]).abs().max() > 0.1


@torch.no_grad()
def test_every_token_sees_all_that_came_before(model, input_ids):
    changed = input_ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 97
    moved = (model(changed) - model(input_ids)).abs().amax(-1)
    assert (moved > 1e-3).all()


@torch.no_grad()
def test_a_shorter_text_gives_the_same_logits(model, input_ids):
    logits = model(input_ids)
    for length in (1, 2, 13):
        torch.testing.assert_close(model(input_ids[:, :length]), logits[:, :length], atol=1e-5, rtol=0)


def test_a_text_longer_than_the_context_is_an_error(model):
    assert model(torch.zeros(1, 24, dtype=torch.long)).shape == (1, 24, 97)
    with pytest.raises(WeightsError, match="25 tokens are more than the model's context; known: 24"):
        model(torch.zeros(1, 25, dtype=torch.long))


@pytest.mark.parametrize("chunk", [1, 5, 64, 10_000])
def test_the_chunked_loss_and_its_gradients_equal_the_whole_loss(model, input_ids, chunk):
    targets = input_ids.roll(-1, 1)
    targets[0, 3:9], targets[2], targets[:, -1] = IGNORE, IGNORE, IGNORE
    whole = F.cross_entropy(model(input_ids).flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    expected = torch.autograd.grad(whole, list(model.parameters()))
    loss = model.loss_sum(input_ids, targets, chunk=chunk)
    torch.testing.assert_close(loss, whole)
    for x, y in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_loss_of_a_ragged_batch_is_the_sum_over_its_rows(model, input_ids):
    targets = input_ids.roll(-1, 1)
    lengths = torch.tensor([24, 1, 7, 13, 20])
    targets[torch.arange(24) >= lengths[:, None]] = IGNORE
    together = model.loss_sum(input_ids, targets)
    alone = sum(
        model.loss_sum(ids[None, :n], row[None, :n]) for ids, row, n in zip(input_ids, targets, lengths, strict=True)
    )
    assert together.item() == pytest.approx(alone.item(), rel=1e-6)


def test_packed_documents_give_the_loss_and_gradients_of_documents_alone(model, input_ids):
    lengths = [5, 1, 11, 7]  # of the documents in one row of 24
    number = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    mask = (number[:, None] == number) & torch.ones(24, 24, dtype=torch.bool).tril()
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    targets = input_ids[:1].roll(-1, 1)
    packed = LossModule(model)(input_ids[:1], targets, mask[None, None], positions)
    alone = sum(
        model.loss_sum(ids[None], row[None])
        for ids, row in zip(input_ids[0].split(lengths), targets[0].split(lengths), strict=True)
    )
    torch.testing.assert_close(packed, alone)
    expected = torch.autograd.grad(alone, list(model.parameters()))
    for x, y in zip(torch.autograd.grad(packed, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


def test_the_logits_never_exist_whole(model, input_ids, monkeypatch):
    rows, right = [], F.cross_entropy

    def counted(logits, *arguments, **options):
        rows.append(len(logits))
        return right(logits, *arguments, **options)

    monkeypatch.setattr(F, "cross_entropy", counted)
    model.loss_sum(input_ids, input_ids, chunk=50)
    assert rows == [50, 50, 20]


def test_no_supervised_position_is_a_loss_of_zero(model, input_ids):
    loss = model.loss_sum(input_ids, torch.full_like(input_ids, IGNORE))
    loss.backward()
    assert loss.item() == 0 and not any(
        parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None
    )


def test_dropout_acts_in_training_only(input_ids):
    model = randomised(GPT(GPTConfig(**{**SHAPE.__dict__, "dropout": 0.3})))
    torch.manual_seed(0)
    assert torch.equal(model(input_ids), model(input_ids))
    torch.testing.assert_close(model(input_ids), randomised(GPT(SHAPE))(input_ids))
    model.train()
    assert not torch.equal(model(input_ids), model(input_ids))


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 5])
def test_asking_a_block_for_one_position_equals_asking_for_all(model, input_ids, batch):
    x = model.embed(input_ids)[:batch]
    at = torch.tensor([0, 23, 11, 5, 23])[:batch]
    block = model.blocks[0]
    one = block(x, mask=causal_mask_at(at, 24), at=at)
    assert one.shape == (batch, 1, 32)
    torch.testing.assert_close(one, gather_positions(block(x), at), atol=1e-5, rtol=0)


def test_take_and_up_to_are_what_they_say():
    x, at = torch.arange(12).view(2, 3, 2), torch.tensor([2, 0])
    assert gather_positions(x, at).tolist() == [[[4, 5]], [[6, 7]]]
    assert causal_mask_at(at, 3).tolist() == [[[[True, True, True]]], [[[True, False, False]]]]


def test_the_usual_shape_is_gpt2s():
    own, row = GPTConfig(), weights_registry()["gpt2"]
    shape = ("vocab_size", "context", "width", "layers", "heads")
    assert [getattr(own, name) for name in shape] == [getattr(row, name) for name in shape]
