"""The plain attention is the fused one, and what it shows are the weights of the real pass."""

import pytest
import torch
from torch.nn import functional as F

from finetune.models.encoder import Encoder
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.plain_attention import Recording, attention_maps, plain_attention
from finetune.models.transformer import Transformer, TransformerConfig

SHAPE = {"vocab_size": 61, "context": 24, "width": 32, "layers": 3, "heads": 4}
B, H, T = 2, 4, 7
LLAMA = {"positions": "rotary", "norm": "rms", "kv_heads": 2, "activation": "swiglu", "biases": False}
IDS = torch.tensor([[3, 9, 41, 7, 22, 5, 5], [12, 60, 8, 1, 1, 1, 1]])
REAL = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
SOURCE, SOURCE_REAL = IDS[:, :5], REAL[:, :5]
MODELS = {
    "gpt": (lambda: GPT(GPTConfig(**SHAPE)), (IDS,), {}),
    "llama": (lambda: Transformer(TransformerConfig(**SHAPE, **LLAMA)), (IDS,), {}),
    "alibi": (lambda: Transformer(TransformerConfig(**SHAPE, positions="alibi")), (IDS,), {}),
    "encoder": (lambda: Encoder(TransformerConfig(**SHAPE)), (IDS,), {"attention_mask": REAL}),
    "encoder-alibi": (lambda: Encoder(TransformerConfig(**SHAPE, positions="alibi")), (IDS, REAL), {}),
    "encoder-decoder": (
        lambda: EncoderDecoder(EncoderDecoderConfig(**SHAPE, encoder_layers=2)),
        (SOURCE, IDS),
        {"source_mask": SOURCE_REAL, "target_mask": REAL},
    ),
    "encoder-decoder-llama": (
        lambda: EncoderDecoder(EncoderDecoderConfig(**SHAPE, **LLAMA)),
        (SOURCE, IDS),
        {"source_mask": SOURCE_REAL},
    ),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def given(request):
    """Each model with random weights, its inputs and its masks."""
    build, inputs, more = request.param
    return build().initialise(1, std=0.1).eval(), inputs, more


def masks() -> dict[str, dict]:
    allowed = torch.rand(B, 1, T, T, generator=torch.Generator().manual_seed(3)) > 0.4
    allowed |= torch.eye(T, dtype=torch.bool)
    bias = torch.randn(B, H, T, T, generator=torch.Generator().manual_seed(4))
    return {
        "none": {},
        "causal": {"is_causal": True},
        "boolean": {"attn_mask": allowed},
        "added": {"attn_mask": bias},
        "added-minus-infinity": {"attn_mask": bias.masked_fill(~allowed, -torch.inf)},
    }


@pytest.mark.parametrize("mask", masks().values(), ids=masks())
def test_plain_attention_is_the_fused_one(mask):
    q, k, v = torch.randn(3, B, H, T, 8, generator=torch.Generator().manual_seed(1))
    output, weights = plain_attention(q, k, v, **mask)
    torch.testing.assert_close(output, F.scaled_dot_product_attention(q, k, v, **mask), atol=1e-6, rtol=0)
    torch.testing.assert_close(weights @ v, output)


def test_the_weights_are_those_of_the_formula():
    q, k = torch.tensor([[[[1.0, 0, 0, 0]]]]), torch.tensor([[[[2.0, 0, 0, 0], [0, 5.0, 0, 0]]]])
    _, weights = plain_attention(q, k, k)
    e = torch.e
    torch.testing.assert_close(weights[0, 0, 0], torch.tensor([e / (e + 1), 1 / (e + 1)]))  # scores 2 / sqrt(4) and 0


@torch.no_grad()
def test_a_recorded_pass_gives_what_the_fused_one_gives(given):
    model, inputs, more = given
    with Recording() as recording:
        plain = model(*inputs, **more)
    torch.testing.assert_close(plain, model(*inputs, **more), atol=1e-6, rtol=1e-5)
    assert len(recording.weights) in (3, 8, 9)


def test_rows_sum_to_one_and_nothing_is_seen_that_is_hidden(given):
    model, inputs, more = given
    maps = attention_maps(model, *inputs, **more)
    for name, weights in maps.items():
        layers = getattr(model.config, "encoder_layers", None) if name == "encoder" else None
        assert weights.shape[:3] == (layers or SHAPE["layers"], B, H), name
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    if "decoder" in maps:
        assert maps["decoder"].shape[3:] == (T, T)
        assert not maps["decoder"].triu(1).any() and (maps["decoder"][..., 5, :6] > 0).any()
    pads = {"encoder": ~SOURCE_REAL if "cross" in maps else ~REAL, "cross": ~SOURCE_REAL}
    for name in maps.keys() & pads.keys():
        hidden = pads[name][None, :, None, None].expand_as(maps[name])
        assert hidden.any() and not maps[name][hidden].any() and (maps[name][~hidden] > 0).all(), name
    if "target_mask" in more:  # a pad of the target sees itself, and nobody else sees it
        hidden = (~REAL[:, None, :] & ~torch.eye(T, dtype=torch.bool))[None, :, None].expand_as(maps["decoder"])
        assert not maps["decoder"][hidden].any()


def test_the_attention_maps_of_an_encoder_decoder_are_separated():
    model = EncoderDecoder(EncoderDecoderConfig(**SHAPE)).initialise(1, std=0.2).eval()
    maps = attention_maps(model, SOURCE, IDS, source_mask=SOURCE_REAL)
    assert {name: part.shape[3:] for name, part in maps.items()} == {
        "encoder": (5, 5),
        "decoder": (7, 7),
        "cross": (7, 5),
    }
    stack = model.encoder
    x = stack.add_positions(model.token_embedding(SOURCE), torch.arange(5)[None].expand(2, 5))
    block = stack.blocks[0]
    q, k, _ = (z.view(2, 5, 4, 8).transpose(1, 2) for z in block.attention.qkv(block.norm_1(x)).chunk(3, dim=-1))
    first = (q[0] @ k[0].transpose(-2, -1) / 8**0.5).softmax(dim=-1)  # the first text has no pads
    torch.testing.assert_close(maps["encoder"][0, 0], first)


def test_the_weights_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    from finetune.checkpoints.convert import load_gpt

    config = transformers.GPT2Config(
        n_layer=3,
        n_embd=32,
        n_head=4,
        n_positions=24,
        vocab_size=61,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    torch.manual_seed(5)
    reference = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(0.0, 0.2)
    tensors = reference.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name != "lm_head.weight"}
    model, _ = load_gpt(GPTConfig(**SHAPE), shapes, tensors.__getitem__, "transformers")
    expected = torch.stack(reference(IDS, output_attentions=True).attentions)
    torch.testing.assert_close(attention_maps(model.eval(), IDS)["decoder"], expected, atol=2e-6, rtol=0)


def test_dropout_is_refused_and_the_fused_path_is_back_afterwards():
    model = GPT(GPTConfig(**SHAPE, dropout=0.1)).initialise(1)
    with pytest.raises(AssertionError, match="dropout"):
        attention_maps(model.train(), IDS)
    with Recording() as recording:
        pass
    model.eval()(IDS)
    assert not recording.weights
