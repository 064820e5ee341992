"""What each option promises, held against formulas written out and against GPT; and that all of them can be trained."""

import cmath
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from finetune.errors import WeightsError
from finetune.models.encoder import Encoder
from finetune.models.gpt import GPT, IGNORE, GPTConfig
from finetune.models.heads import LossModule
from finetune.models.transformer import LLAMA as LLAMA_OPTIONS
from finetune.models.transformer import (
    MLP,
    Attention,
    Transformer,
    TransformerConfig,
    alibi_bias,
    alibi_slopes,
    angles,
    rotate,
    sinusoids,
)
from finetune.recipe import Train
from finetune.tasks.pretrain import job as pretrain_job
from finetune.tasks.pretrain.packing import PackedTokens, TokenWriter, document_layout
from finetune.tokenizer import Tokenizer
from finetune.training.loop import train

SHAPE = {"vocab_size": 61, "context": 24, "width": 32, "layers": 2, "heads": 4}
LLAMA = LLAMA_OPTIONS | SHAPE | {"kv_heads": 2}
OPTIONS = {
    "gpt-2": {},
    "sinusoidal": {"positions": "sinusoidal"},
    "rotary": {"positions": "rotary"},
    "alibi": {"positions": "alibi"},
    "grouped": {"kv_heads": 2},
    "multi-query": {"kv_heads": 1},
    "relu": {"activation": "relu"},
    "swiglu": {"activation": "swiglu"},
    "post": {"norm": "post"},
    "rms": {"norm": "rms"},
    "untied": {"tied": False},
    "no biases": {"biases": False},
    "local": {"attention": "local", "window": 5},
    "strided": {"attention": "strided", "window": 4},
    "local alibi": {"attention": "local", "window": 3, "positions": "alibi"},
    "shared": {"shared_blocks": True},
    "llama": LLAMA,
}


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter normal with standard deviation 0.2, norms around one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(float("norm" in name and "weight" in name), 0.2, generator=generator)
    return module.eval()


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def model(request) -> Transformer:
    """Each option in turn."""
    return randomised(Transformer(TransformerConfig(**(SHAPE | request.param))))


@pytest.fixture
def input_ids() -> torch.Tensor:
    """(3, 24)."""
    return torch.randint(0, 61, (3, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"kv_heads": 3}, "kv_heads does not divide the 4 heads; got 3; known: 1, 2, 4"),
        ({"kv_heads": 0}, "got 0; known: 1, 2, 4"),
        ({"kv_heads": 8}, "got 8; known: 1, 2, 4"),
        ({"positions": "relative"}, "unknown positions; got 'relative'; known: learned, sinusoidal, rotary"),
        ({"activation": "silu"}, "unknown activation; got 'silu'; known: gelu, relu, swiglu"),
        ({"norm": "layer"}, "unknown norm; got 'layer'; known: pre, post, rms"),
        ({"width": 12, "positions": "rotary"}, "rotary positions need an even number of channels in a head; got 3"),
        (
            {"width": 9, "heads": 3, "positions": "sinusoidal"},
            "sinusoidal positions need an even number of channels in the model; got 9",
        ),
        ({"heads": 5}, "divisible by the heads"),
        ({"attention": "sparse"}, "unknown attention; got 'sparse'; known: full, local, strided"),
        ({"window": 0}, "the attention window is empty; got 0; known: 1 or more"),
    ],
)
def test_a_variant_that_cannot_be_is_an_error(wrong, message):
    with pytest.raises(WeightsError, match=message):
        TransformerConfig(**(SHAPE | wrong))


def test_the_defaults_are_gpt_2(input_ids):
    gpt, variant = randomised(GPT(GPTConfig(**SHAPE))), Transformer(TransformerConfig(**SHAPE)).eval()
    variant.load_state_dict(gpt.state_dict())
    assert torch.equal(variant(input_ids), gpt(input_ids))
    targets = input_ids.roll(-1, 1).index_fill(1, torch.tensor([4, 23]), IGNORE)
    packed = document_layout(input_ids, end_of_text=7)
    losses = [model.loss_sum(input_ids, targets, *packed, chunk=10) for model in (variant, gpt)]
    torch.testing.assert_close(*losses)
    gradients = [
        torch.autograd.grad(loss, list(model.parameters())) for loss, model in zip(losses, (variant, gpt), strict=True)
    ]
    theirs = dict(zip(dict(gpt.named_parameters()), gradients[1], strict=True))
    for (name, _), gradient in zip(variant.named_parameters(), gradients[0], strict=True):
        torch.testing.assert_close(gradient, theirs[name], atol=1e-4, rtol=1e-4)


def test_the_defaults_begin_as_gpt_2():
    theirs = GPT(GPTConfig(**SHAPE)).initialise(3).state_dict()
    ours = Transformer(TransformerConfig(**SHAPE)).initialise(3).state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_model_with_an_option_is_not_gpt_2(model, input_ids):
    if model.config != TransformerConfig(**SHAPE):
        same = randomised(Transformer(TransformerConfig(**SHAPE)))
        assert (model(input_ids) - same(input_ids)).abs().max() > 0.1
    assert model(input_ids).shape == (3, 24, 61)


def test_the_llama_shape_has_no_biases_and_no_position_table():
    with torch.device("meta"):
        names = dict(Transformer(TransformerConfig(**LLAMA_OPTIONS, kv_heads=4)).named_parameters())
    assert not [name for name in names if name.endswith("bias") or "position" in name] and "head.weight" in names
    assert names["blocks.0.attention.qkv.weight"].shape == (768 + 2 * 256, 768)
    assert names["blocks.0.mlp.gate.weight"].shape == (2048, 768)


@torch.no_grad()
def test_a_token_sees_all_before_it_and_nothing_after(model, input_ids):
    logits = model(input_ids)
    changed = input_ids.clone()
    changed[:, 11] = (changed[:, 11] + 1) % 61
    moved = (model(changed) - logits).abs().amax(-1)
    reach = 11 + 1 + 2 * (model.config.window - 1) if model.config.attention == "local" else 24  # over two layers
    assert (moved[:, :11] < 1e-5).all() and (moved[:, 11:reach] > 1e-5).all() and (moved[:, reach:] < 1e-5).all()


def gradients_of(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("window", [1, 4, 30])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("attention", ["local", "strided"])
def test_sparse_attention_is_full_attention_under_a_plain_mask(input_ids, window, positions, attention):
    shape = SHAPE | {"positions": positions, "attention": attention, "window": window}
    local = randomised(Transformer(TransformerConfig(**shape)))
    full = randomised(Transformer(TransformerConfig(**SHAPE, positions=positions)))
    distance = torch.arange(24)[:, None] - torch.arange(24)
    near = (distance < window) | (distance % window == 0) if attention == "strided" else distance < window
    mask = (distance >= 0) & near
    targets = input_ids.roll(-1, 1)
    losses = local.loss_sum(input_ids, targets), full.loss_sum(input_ids, targets, mask[None, None])
    torch.testing.assert_close(*losses)
    expected = gradients_of(full, losses[1])
    for name, gradient in gradients_of(local, losses[0]).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-4, msg=name)
    assert (losses[1] - full.loss_sum(input_ids, targets)).abs() > 0.1 or mask.sum() == 300


def test_an_encoders_window_reaches_to_both_sides():
    encoder = randomised(Encoder(TransformerConfig(**SHAPE | {"layers": 1}, attention="local", window=3)))
    ids = torch.arange(12)[None]
    changed = ids.clone()
    changed[0, 6] = 50
    moved = (encoder(changed) - encoder(ids)).abs().amax(-1)[0] > 1e-5
    assert moved.nonzero().flatten().tolist() == [4, 5, 6, 7, 8]


def test_shared_blocks_are_one_block_in_every_layer(input_ids):
    shared, apart = (
        randomised(Transformer(TransformerConfig(**SHAPE, shared_blocks=together))) for together in (True, False)
    )
    names = dict(shared.named_parameters())
    assert not any(name.startswith("blocks.1.") for name in names) and len(shared.blocks) == 2
    apart.load_state_dict(shared.state_dict())
    losses = [model.loss_sum(input_ids, input_ids.roll(-1, 1)) for model in (shared, apart)]
    torch.testing.assert_close(*losses)
    expected = gradients_of(apart, losses[1])
    for name, gradient in gradients_of(shared, losses[0]).items():
        other = expected.get(name.replace("blocks.0.", "blocks.1."), torch.zeros(())) if "blocks" in name else 0
        torch.testing.assert_close(gradient, expected[name] + other, atol=1e-3, rtol=1e-4, msg=name)


def test_what_differs_from_gpt_2_is_said():
    assert TransformerConfig(**SHAPE).is_gpt2() and TransformerConfig(**SHAPE, window=9).is_gpt2()
    assert TransformerConfig(**LLAMA).is_llama() and TransformerConfig(**LLAMA | {"tied": True}).is_llama()
    for other in ({"biases": True}, {"norm": "pre"}, {"attention": "local"}, {"shared_blocks": True}):
        assert not TransformerConfig(**LLAMA | other).is_llama()
    said = TransformerConfig(**SHAPE, attention="local", window=9, tied=False).said()
    assert said == "tied false, attention local, window 9"


def test_packed_documents_give_the_loss_and_gradients_of_documents_alone(model, input_ids):
    lengths = [5, 1, 11, 7]  # of the documents in one row of 24
    row = input_ids[0].where(input_ids[0] != 60, 0)
    row[[0, 5, 6, 17]] = 60
    targets = input_ids[1]
    packed = LossModule(model)(row[None], targets[None], *document_layout(row[None], end_of_text=60))
    alone = sum(
        model.loss_sum(ids[None], answers[None])
        for ids, answers in zip(row.split(lengths), targets.split(lengths), strict=True)
    )
    torch.testing.assert_close(packed, alone)
    expected = torch.autograd.grad(alone, list(model.parameters()))
    for x, y in zip(torch.autograd.grad(packed, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


def test_a_text_longer_than_the_context_is_an_error(model):
    with pytest.raises(WeightsError, match="25 tokens are more than the model's context; known: 24"):
        model(torch.zeros(1, 25, dtype=torch.long))


@torch.no_grad()
def test_reading_in_parts_gives_the_logits_of_reading_at_once(model, input_ids):
    whole = model(input_ids)
    for parts in ((24,), (5, 1, 1, 7, 10), (23, 1)):
        cache, end = model.new_cache(24), 0
        for part in input_ids.split(parts, dim=1):
            end += part.shape[1]
            torch.testing.assert_close(model.next_logits(part, cache), whole[:, end - 1], atol=1e-5, rtol=0)
    assert cache.keys.shape[2] == (model.config.kv_heads or 4)


@torch.no_grad()
def test_a_variant_writes_what_it_would_write_alone_and_without_a_cache(model, input_ids):
    lengths = torch.tensor([9, 4, 1])
    attention_mask = torch.arange(9) < lengths[:, None]
    found = model.generate(
        input_ids[:, :9], 22, mask=attention_mask, temperature=0
    )  # 66 tokens: enough that a CPU packs
    for row, ids, length in zip(found, input_ids, lengths.tolist(), strict=True):
        ids = ids[None, :length]
        while ids.shape[1] < min(length + 22, 24):  # before the context is full
            ids = torch.cat([ids, model(ids)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
        assert row[9 - length :][: ids.shape[1]].tolist() == ids[0].tolist()


@torch.no_grad()
def test_bf16_autocast_computes_the_same_function(model, input_ids):
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.loss_sum(input_ids, input_ids.roll(-1, 1))
    assert rough.item() == pytest.approx(model.loss_sum(input_ids, input_ids.roll(-1, 1)).item(), rel=0.02)


def test_dropout_acts_in_training_only(input_ids):
    for options in ({}, {"norm": "post", "positions": "sinusoidal"}, {"positions": "alibi"}):
        model = randomised(Transformer(TransformerConfig(**SHAPE, **options, dropout=0.3)))
        assert torch.equal(model(input_ids), model(input_ids))
        model.train()
        assert not torch.equal(model(input_ids), model(input_ids))


def test_sinusoids_are_the_formula():
    expected = [
        [math.sin(t / 10000 ** (i / 6)) if i % 2 == 0 else math.cos(t / 10000 ** ((i - 1) / 6)) for i in range(6)]
        for t in (0, 1, 5, 200)
    ]
    torch.testing.assert_close(sinusoids(torch.tensor([[0, 1, 5, 200]]), 6), torch.tensor([expected]))


def test_sinusoidal_embeddings_are_scaled_tokens_plus_the_sinusoid(input_ids):
    model = randomised(Transformer(TransformerConfig(**SHAPE, positions="sinusoidal")))
    positions = torch.arange(24)[None]
    expected = model.token_embedding(input_ids) * 32**0.5 + sinusoids(positions, 32)
    torch.testing.assert_close(model.add_positions(model.token_embedding(input_ids), positions), expected)


def test_rotary_is_a_turn_in_the_complex_plane():
    x, turned = torch.randn(1, 1, 3, 8, generator=torch.Generator().manual_seed(3)), torch.empty(1, 1, 3, 8)
    positions = [0, 4, 19]
    for t, position in enumerate(positions):
        for i in range(4):
            z = complex(x[0, 0, t, i], x[0, 0, t, i + 4]) * cmath.exp(1j * position * 10000 ** (-2 * i / 8))
            turned[0, 0, t, i], turned[0, 0, t, i + 4] = z.real, z.imag
    torch.testing.assert_close(rotate(x, angles(torch.tensor([positions]), 8)), turned)


def test_rotary_scores_depend_on_the_distance_only():
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def score(m, n):
        q_at, k_at = (rotate(z.expand(1, 1, 1, -1), angles(torch.tensor([[at]]), 16)) for z, at in ((q, m), (k, n)))
        return (q_at * k_at).sum().item()

    for distance in (0, 1, 9):
        for start in (0, 3, 100):
            assert score(start + distance, start) == pytest.approx(score(distance, 0), abs=1e-4)
    assert len({round(score(distance, 0), 2) for distance in (0, 1, 9)}) == 3
    assert score(0, 0) == pytest.approx((q * k).sum().item())


def test_alibi_slopes_are_the_papers():
    assert alibi_slopes(8).tolist() == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert alibi_slopes(16).tolist() == pytest.approx([2 ** (-h / 2) for h in range(1, 17)])


def test_alibi_takes_slope_times_distance_from_the_score():
    bias = alibi_bias(torch.arange(6)[None], 8, None)
    for head in range(8):
        for query in range(6):
            for key in range(6):
                expected = -(query - key) / 2 ** (head + 1) if key <= query else -math.inf
                assert bias[0, head, query, key].item() == expected
    # A second document from the third token on: nothing crosses, and the distances are the same.
    ids = torch.tensor([[9, 1, 9, 1, 1, 1]])
    mask, positions = document_layout(ids, end_of_text=9)
    packed = alibi_bias(positions, 8, mask)
    assert torch.equal(packed.isfinite(), mask.expand(1, 8, 6, 6))
    assert torch.equal(packed[mask.expand_as(packed)], bias[mask.expand_as(bias)])


def test_alibi_counts_the_distance_on_both_sides():
    everything = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    bias = alibi_bias(torch.arange(5)[None], 8, everything)[0]
    expected = -(torch.arange(5)[:, None] - torch.arange(5)).abs() * alibi_slopes(8)[:, None, None]
    assert torch.equal(bias, expected)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_queries_are_plain_attention_with_its_key_heads_repeated(kv_heads):
    grouped = randomised(Attention(TransformerConfig(**SHAPE, kv_heads=kv_heads)))
    plain = Attention(TransformerConfig(**SHAPE)).eval()
    rows = {}
    for kind, tensor in grouped.qkv.named_parameters():
        q, k, v = tensor.split([32, 8 * kv_heads, 8 * kv_heads])
        shared = [torch.cat([z[8 * (head * kv_heads // 4) :][:8] for head in range(4)]) for z in (k, v)]
        rows[kind] = torch.cat([q, *shared])
    plain.qkv.load_state_dict(rows)
    plain.out.load_state_dict(grouped.out.state_dict())
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(grouped(x, None, None), plain(x, None, None))
    assert plain.heads == plain.kv_heads == 4 and grouped.kv_heads == kv_heads


def test_swiglu_is_its_formula_at_the_parameters_of_two_matrices():
    mlp = randomised(MLP(TransformerConfig(**SHAPE, activation="swiglu"))).double()
    x = torch.randn(2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    gate = x @ mlp.gate.weight.T + mlp.gate.bias
    inner = gate / (1 + (-gate).exp()) * (x @ mlp.up.weight.T + mlp.up.bias)
    torch.testing.assert_close(mlp(x), inner @ mlp.down.weight.T + mlp.down.bias)
    for width in (32, 128, 768, 4096):
        config = TransformerConfig(width=width, heads=4, activation="swiglu")
        assert config.mlp_width % 8 == 0
        assert 0 <= 3 * config.mlp_width - 2 * replace(config, activation="gelu").mlp_width < 24


def test_the_loop_trains_a_variant(tmp_path):
    tokenizer = Tokenizer.of_bytes()
    with TokenWriter(tmp_path, tokenizer) as writer:
        for split, times in (("train", 40), ("val", 4)):
            for number in range(times):
                writer.add(split, f"the tide turns at {number % 10} past noon. ", begins=True)
    packed = [
        PackedTokens(tmp_path / f"{split}.bin", 32, tokenizer.vocab_size, tokenizer.end_of_text)
        for split in ("train", "val")
    ]
    shape = LLAMA | {"vocab_size": tokenizer.vocab_size, "context": 32}
    model = LossModule(Transformer(TransformerConfig(**shape)).initialise(1))
    settings = Train(
        method="full", metric="log_loss", epochs=4, batch_size=4, lr=5e-3, precision="fp32", threads=1, optimizer="muon"
    )
    job = pretrain_job.build_job(model, settings, *packed, 1.0, 8, torch.device("cpu"))
    before = job.validate(model)["log_loss"]
    found = train(job, settings, tmp_path / "run", {})
    assert before == pytest.approx(math.log(tokenizer.vocab_size), abs=0.2)
    assert found.best_value < 0.5 * before


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary", "alibi"])
def test_any_kind_of_positions_tells_the_order_of_earlier_tokens(positions):
    """Without one, a single block sees a set of tokens."""
    model = Transformer(TransformerConfig(**SHAPE | {"layers": 1}, positions=positions)).initialise(1, std=0.5).eval()
    one, other = model(torch.tensor([[5, 17, 3, 9], [17, 5, 3, 9]]))[:, -1]
    assert (one - other).abs().max() > 1e-2
