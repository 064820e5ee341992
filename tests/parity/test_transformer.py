"""The options against who had them first: LLaMA of transformers, Bloom's ALiBi, torch's own transformer layers."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from finetune.models import transformer
from finetune.models.transformer import Block, Transformer, TransformerConfig, alibi_bias

TOLERANCE = 2e-5  # fp32, at standard deviation 0.2
CONTEXT, VOCABULARY = 48, 90


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Every parameter normal with standard deviation 0.2, norms around one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            parameter.normal_(1.0 if norm else 0.0, 0.2, generator=generator)
    return model.eval()


def llama_keys(layers: int) -> dict[str, list[str]]:
    """Our parameters, each with LLaMA's that make it, one under the other."""
    keys = {"token_embedding": ["model.embed_tokens"], "norm": ["model.norm"], "head": ["lm_head"]}
    for i in range(layers):
        parts = {
            "norm_1": ["input_layernorm"],
            "norm_2": ["post_attention_layernorm"],
            "attention.qkv": [f"self_attn.{name}_proj" for name in "qkv"],
            "attention.out": ["self_attn.o_proj"],
            "mlp.gate": ["mlp.gate_proj"],
            "mlp.up": ["mlp.up_proj"],
            "mlp.down": ["mlp.down_proj"],
        }
        keys |= {
            f"blocks.{i}.{ours}": [f"model.layers.{i}.{name}" for name in theirs] for ours, theirs in parts.items()
        }
    return keys


def check_llama(kv_heads: int, biases: bool) -> float:
    """Copy a random LLaMA's weights; compare logits, loss and every gradient (relative to its largest entry).

    Returns LLaMA's loss.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "context": CONTEXT,
        "vocab_size": VOCABULARY,
        "width": 48,
        "layers": 3,
        "heads": 4,
        "kv_heads": kv_heads,
        "biases": biases,
    }
    config = TransformerConfig(**(transformer.LLAMA | shape))
    llama = randomise(
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=48,
                intermediate_size=config.mlp_width,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=kv_heads,
                max_position_embeddings=CONTEXT,
                rms_norm_eps=1e-5,
                attention_bias=biases,
                mlp_bias=biases,
                tie_word_embeddings=False,
                attn_implementation="eager",
            )
        ),
        seed=1,
    )
    theirs = dict(llama.named_parameters())

    def join(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """LLaMA's tensors under our names."""
        return {
            f"{ours}.{kind}": torch.cat([values[f"{name}.{kind}"] for name in names])
            for ours, names in llama_keys(3).items()
            for kind in ("weight", "bias")
            if f"{names[0]}.{kind}" in values
        }

    model = Transformer(config).eval()
    model.load_state_dict(join(theirs))
    ids = torch.randint(0, VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(2))
    expected = llama(ids, labels=ids)
    torch.testing.assert_close(model(ids), expected.logits, atol=TOLERANCE, rtol=0)
    loss = model.loss_sum(ids[:, :-1], ids[:, 1:], chunk=50) / ids[:, 1:].numel()
    assert loss.item() == pytest.approx(expected.loss.item(), abs=TOLERANCE)
    loss.backward()
    expected.loss.backward()
    gradients = join({name: parameter.grad for name, parameter in theirs.items()})
    assert sum(gradient.numel() for gradient in gradients.values()) == sum(p.numel() for p in llama.parameters())
    for name, parameter in model.named_parameters():
        assert (parameter.grad - gradients[name]).abs().max() / gradients[name].abs().max() < TOLERANCE, name
    return expected.loss.item()


@pytest.mark.parametrize("kv_heads, biases", [(2, False), (1, False), (4, False), (2, True)])
def test_the_llama_shape_is_transformers_llama(kv_heads, biases):
    assert check_llama(kv_heads, biases) > math.log(VOCABULARY) + 0.5  # far from even odds


def neighbours_are_turned(monkeypatch):
    def rotate(x, angle):
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)[:, None]).flatten(-2)

    monkeypatch.setattr(transformer, "rotate", rotate)


def key_heads_take_turns(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "repeat_interleave", lambda self, times, dim: torch.cat([self] * times, dim=dim))


def gate_and_up_are_swapped(monkeypatch):
    monkeypatch.setattr(transformer.MLP, "forward", lambda self, x: self.down(F.silu(self.up(x)) * self.gate(x)))


def norms_subtract_the_mean(monkeypatch):
    monkeypatch.setattr(nn.RMSNorm, "forward", lambda self, x: F.layer_norm(x, x.shape[-1:], self.weight))


@pytest.mark.parametrize(
    "sabotage", [neighbours_are_turned, key_heads_take_turns, gate_and_up_are_swapped, norms_subtract_the_mean]
)
def test_a_wrong_llama_fails_the_comparison(monkeypatch, sabotage):
    sabotage(monkeypatch)
    with pytest.raises(AssertionError, match="Tensor-likes"):
        check_llama(2, False)


@pytest.mark.parametrize("heads", range(1, 21))
def test_alibi_is_blooms(heads):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    lengths = torch.tensor([12, 7])
    seen = torch.arange(12) < lengths[:, None]  # Bloom counts a row's own tokens
    theirs = build_alibi_tensor(seen.long(), heads, torch.float32).view(2, heads, 1, 12).expand(-1, -1, 12, -1)
    causal = torch.ones(12, 12, dtype=torch.bool).tril()
    ours = alibi_bias(torch.arange(12)[None], heads, None).expand(2, -1, -1, -1)
    assert ours.shape == (2, heads, 12, 12)
    for row, length in enumerate(lengths):  # softmax takes away what a query's scores share
        part = (row, slice(None), slice(length), slice(length))
        scores = theirs[part].masked_fill(~causal[:length, :length], -torch.inf)
        torch.testing.assert_close(ours[part].softmax(-1), scores.softmax(-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_block_is_torchs_encoder_layer_under_a_causal_mask(norm, activation):
    config = TransformerConfig(VOCABULARY, CONTEXT, width=32, layers=1, heads=4, norm=norm, activation=activation)
    function = F.relu if activation == "relu" else lambda x: F.gelu(x, approximate="tanh")
    layer = randomise(
        nn.TransformerEncoderLayer(
            32, 4, 128, dropout=0.0, activation=function, batch_first=True, norm_first=norm == "pre"
        ),
        seed=3,
    )
    block = Block(config)
    names = {
        "attention.qkv.": "self_attn.in_proj_",
        "attention.out.": "self_attn.out_proj.",
        "mlp.up.": "linear1.",
        "mlp.down.": "linear2.",
        "norm_1.": "norm1.",
        "norm_2.": "norm2.",
    }
    block.load_state_dict(
        {
            ours + kind: layer.state_dict()[theirs + kind]
            for ours, theirs in names.items()
            for kind in ("weight", "bias")
        }
    )
    x = torch.randn(3, 20, 32, generator=torch.Generator().manual_seed(4))
    expected = layer(x, src_mask=nn.Transformer.generate_square_subsequent_mask(20), is_causal=True)
    torch.testing.assert_close(block(x, None, None), expected, atol=TOLERANCE, rtol=0)
    other = TransformerConfig(**(config.__dict__ | {"norm": "post" if norm == "pre" else "pre"}))
    turned = Block(other)
    turned.load_state_dict(block.state_dict())
    assert (turned(x, None, None) - expected).abs().max() > 0.1
