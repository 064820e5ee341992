"""Encoder and encoder-decoder against torch's own transformer: what they compute, every gradient, pads on each side."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from finetune.models import encoder_decoder, transformer
from finetune.models.encoder import Encoder
from finetune.models.encoder_decoder import VANILLA, EncoderDecoder, EncoderDecoderConfig
from finetune.models.transformer import TransformerConfig

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")  # torch's own fast path, not used here
TOLERANCE = 2e-5  # fp32, at standard deviation 0.2
SHAPE = {"vocab_size": 90, "context": 16, "width": 32, "layers": 2, "heads": 4}
SOURCE = torch.arange(12) < torch.tensor([12, 7, 1])[:, None]  # (3, 12), true where there is a token
TARGET = torch.arange(9) < torch.tensor([4, 9, 6])[:, None]  # (3, 9)
NAMES = {
    "layers": "blocks",
    "self_attn.in_proj_": "attention.qkv.",
    "self_attn.out_proj": "attention.out",
    "multihead_attn.out_proj": "cross_attention.out",
    "linear1": "mlp.up",
    "linear2": "mlp.down",
    "norm1": "norm_1",
}
IN_ENCODER, IN_DECODER = {"norm2": "norm_2"}, {"norm2": "norm_cross", "norm3": "norm_2"}


def randomise(model: nn.Module, seed: int, std: float = 0.2) -> nn.Module:
    """Every parameter normal with this standard deviation, norms around one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, float("norm" in name and name.endswith("weight")), std, generator)
    return model.train()  # no dropout, and in eval torch computes another way


def in_our_names(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Torch's tensors as ours; it has one matrix for cross-attention's queries, keys and values, we have two."""
    ours = {}
    for name, tensor in values.items():
        for theirs, our in (NAMES | (IN_DECODER if name.startswith("decoder.") else IN_ENCODER)).items():
            name = name.replace(theirs, our)
        if "multihead_attn.in_proj_" in name:
            width = len(tensor) // 3
            ours[name.replace("multihead_attn.in_proj_", "cross_attention.q.")] = tensor[:width]
            ours[name.replace("multihead_attn.in_proj_", "cross_attention.kv.")] = tensor[width:]
        else:
            ours[name] = tensor
    return ours


def draw_ids(attention_mask: torch.Tensor, seed: int) -> torch.Tensor:
    """Any token anywhere, at pads too."""
    return torch.randint(0, SHAPE["vocab_size"], attention_mask.shape, generator=torch.Generator().manual_seed(seed))


def assert_same(
    logits, expected, attention_mask, ours: nn.Module, theirs: dict[str, nn.Parameter], of_gradients: float = TOLERANCE
) -> None:
    """Logits of real positions, and the gradients of a sum of them with random weights, relative to the largest."""
    torch.testing.assert_close(logits[attention_mask], expected[attention_mask], atol=TOLERANCE, rtol=0)
    weights = torch.randn(expected[attention_mask].shape, generator=torch.Generator().manual_seed(9))
    for output in (logits, expected):
        (output[attention_mask] * weights).sum().backward()
    gradients = in_our_names({name: parameter.grad for name, parameter in theirs.items()})
    assert gradients.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        apart = (parameter.grad - gradients[name]).abs().max() / gradients[name].abs().max()
        assert apart < of_gradients, (name, apart)


def assert_same_encoder(norm: str, activation: str) -> None:
    """Two of torch's encoder layers between learned positions and a tied output."""
    function = F.relu if activation == "relu" else lambda x: F.gelu(x, approximate="tanh")
    layer = nn.TransformerEncoderLayer(
        32, 4, 128, dropout=0.0, activation=function, batch_first=True, norm_first=norm == "pre"
    )
    last = nn.LayerNorm(32) if norm == "pre" else None
    reference = nn.ModuleDict({"token_embedding": nn.Embedding(90, 32), "position_embedding": nn.Embedding(16, 32)})
    stack = nn.TransformerEncoder(layer, 2, last, enable_nested_tensor=False)
    reference.update(stack.named_children())
    randomise(reference, seed=1)
    ours = Encoder(TransformerConfig(**SHAPE, norm=norm, activation=activation))
    ours.load_state_dict(in_our_names(reference.state_dict()))
    ids = draw_ids(SOURCE, seed=2)
    x = reference["token_embedding"](ids) + reference["position_embedding"](torch.arange(12))
    expected = stack(x, src_key_padding_mask=~SOURCE) @ reference["token_embedding"].weight.T
    assert_same(ours(ids, SOURCE), expected, SOURCE, ours, dict(reference.named_parameters()))


def assert_same_transformer(
    last_norm: bool, shape: dict = SHAPE, std: float = 0.2, of_gradients: float = TOLERANCE, **options
) -> None:
    """Torch's whole transformer between scaled tokens with sinusoids and a tied output."""
    config = EncoderDecoderConfig(**(VANILLA.__dict__ | shape | {"dropout": 0.0, "last_norm": last_norm} | options))
    width = config.width
    reference = nn.Transformer(
        width,
        config.heads,
        config.encoder.layers,
        config.layers,
        4 * width,
        dropout=0.0,
        batch_first=True,
        norm_first=config.norm == "pre",
    )
    if not last_norm:
        reference.encoder.norm = reference.decoder.norm = None
    reference.token_embedding = nn.Embedding(config.vocab_size, width)
    randomise(reference, 3, std)
    ours = EncoderDecoder(config)
    ours.load_state_dict(in_our_names(reference.state_dict()))
    source, target = draw_ids(SOURCE, seed=4), draw_ids(TARGET, seed=5)
    angle = torch.arange(16)[:, None] / 10_000 ** (torch.arange(width // 2) / (width // 2))
    sinusoids = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)  # (16, C)
    x, y = (reference.token_embedding(ids) * width**0.5 + sinusoids[: ids.shape[1]] for ids in (source, target))
    hidden = reference(
        x,
        y,
        tgt_mask=torch.ones(9, 9, dtype=torch.bool).triu(1),
        src_key_padding_mask=~SOURCE,
        tgt_key_padding_mask=~TARGET,
        memory_key_padding_mask=~SOURCE,
    )
    expected = hidden @ reference.token_embedding.weight.T
    logits = ours(source, target, SOURCE, TARGET)
    assert_same(logits, expected, TARGET, ours, dict(reference.named_parameters()), of_gradients)
    torch.testing.assert_close(ours(source, target, SOURCE)[TARGET], logits[TARGET], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("norm, activation", [("pre", "gelu"), ("post", "gelu"), ("post", "relu")])
def test_the_encoder_is_torchs(norm, activation):
    assert_same_encoder(norm, activation)


@pytest.mark.parametrize(
    "options",
    [
        {"last_norm": True},
        {"last_norm": False},
        {"norm": "pre", "last_norm": True},
        {"last_norm": True, "layers": 1, "encoder_layers": 3},
    ],
    ids=str,
)
def test_the_encoder_decoder_is_torchs_transformer(options):
    assert_same_transformer(**options)


def test_the_vanilla_preset_is_torchs_at_its_full_size():
    """5,000 tokens, width 512, 8 heads, 6 and 6 layers: logits and gradients."""
    assert (VANILLA.vocab_size, VANILLA.width, VANILLA.heads) == (5000, 512, 8)
    assert VANILLA.layers == VANILLA.encoder.layers == 6
    assert_same_transformer(last_norm=VANILLA.last_norm, shape={}, std=0.05, of_gradients=1e-3)


def test_the_vanilla_preset_has_torchs_layout():
    with torch.device("meta"):
        ours, theirs = EncoderDecoder(VANILLA), nn.Transformer()
    names = in_our_names(dict(theirs.named_parameters()))
    sizes = {name: parameter.shape for name, parameter in ours.named_parameters()}
    assert sizes.pop("token_embedding.weight") == (5000, 512)
    assert sizes == {name: parameter.shape for name, parameter in names.items()}


def pads_of_the_source_are_seen(patch):
    right = transformer.CrossAttention.read
    patch.setattr(
        transformer.CrossAttention,
        "read",
        lambda self, x, attention_mask: right(self, x, torch.ones_like(attention_mask)),
    )


def the_decoder_looks_ahead(patch):
    patch.setattr(encoder_decoder, "causal", encoder_decoder.bidirectional_mask)


def the_encoder_does_not_look_ahead(patch):
    patch.setattr(encoder_decoder, "bidirectional_mask", encoder_decoder.causal)


def keys_and_values_are_swapped(patch):
    right = transformer.CrossAttention.read

    def read(self, encoded, attention_mask):
        k, v, mask = right(self, encoded, attention_mask)
        return transformer.Source(v, k, mask)

    patch.setattr(transformer.CrossAttention, "read", read)


def norms_change_places(patch):
    patch.setattr(transformer.Block, "add", lambda self, x, norm, part: x + part(norm(x)))


def cross_attention_has_no_gradient(patch):
    right = transformer.CrossAttention.read
    patch.setattr(
        transformer.CrossAttention, "read", lambda self, x, attention_mask: right(self, x.detach(), attention_mask)
    )


@pytest.mark.parametrize(
    "sabotage",
    [
        pads_of_the_source_are_seen,
        the_decoder_looks_ahead,
        norms_change_places,
        the_encoder_does_not_look_ahead,
        keys_and_values_are_swapped,
        cross_attention_has_no_gradient,
    ],
)
def test_a_wrong_transformer_fails_the_comparison(monkeypatch, sabotage):
    sabotage(monkeypatch)
    with pytest.raises(AssertionError):
        assert_same_transformer(last_norm=True)
