"""Encoder-decoder against transformers: Marian, which is the vanilla shape, and GPT-2 with cross-attention.

Marian's sinusoids stand in another order; it is given ours.
"""

import pytest
import torch
from torch import nn
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, MarianConfig, MarianMTModel

from finetune.checkpoints.gpt2_keys import PREFIX, expand
from finetune.models import cache
from finetune.models.encoder_decoder import VANILLA, EncoderDecoder, EncoderDecoderConfig
from finetune.models.transformer import sinusoids

NEW, START, PAD = 10, 1, 0
SHAPE = {"vocab_size": 50, "context": 24, "width": 32, "layers": 2, "heads": 4}
NAMES = {
    "layers": "blocks",
    "encoder_attn.out_proj": "cross_attention.out",
    "self_attn.out_proj": "attention.out",
    "encoder_attn.q_proj": "cross_attention.q",
    "self_attn_layer_norm": "norm_1",
    "fc1": "mlp.up",
    "encoder_attn_layer_norm": "norm_cross",
    "fc2": "mlp.down",
    "final_layer_norm": "norm_2",
}
SOURCES = [[3, 9, 41, 7, 22, 5, 5, 8], [30], [12, 49, 8], [2, 44, 45, 46, 47]]
REAL = torch.arange(8) < torch.tensor([len(ids) for ids in SOURCES])[:, None]


def randomise(model: nn.Module, std: float) -> nn.Module:
    """Every parameter normal, norms around one."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, float("norm" in name and name.endswith("weight")), std, generator)
    return model.eval()


@pytest.fixture(scope="module")
def pair() -> tuple[EncoderDecoder, MarianMTModel]:
    """The same random weights in ours and in Marian."""
    ours = randomise(EncoderDecoder(EncoderDecoderConfig(**(VANILLA.__dict__ | SHAPE | {"last_norm": False}))), 0.2)
    theirs = MarianMTModel(
        MarianConfig(
            vocab_size=50,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            pad_token_id=PAD,
            decoder_attention_heads=4,
            encoder_ffn_dim=128,
            decoder_ffn_dim=128,
            activation_function="relu",
            max_position_embeddings=24,
            scale_embedding=True,
            decoder_start_token_id=START,
            eos_token_id=None,
            forced_eos_token_id=None,
        )
    ).eval()
    tensors, filled = dict(ours.named_parameters()), 0
    with torch.no_grad():
        for side in (theirs.model.encoder, theirs.model.decoder):
            side.embed_positions.weight.copy_(sinusoids(torch.arange(24)[None], 32)[0])
        for name, parameter in theirs.named_parameters():
            parameter.copy_(ours_of(name.removeprefix("model."), tensors))
            filled += parameter.numel() * ("embed_positions" not in name)
    assert filled == sum(parameter.numel() for parameter in ours.parameters())
    return ours, theirs


def ours_of(name: str, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Our tensor, or the part of one, that is Marian's of this name."""
    if name == "shared.weight":
        return tensors["token_embedding.weight"]
    if "embed_positions" in name:
        return sinusoids(torch.arange(24)[None], 32)[0]
    for theirs, our in NAMES.items():
        name = name.replace(theirs, our)
    for number, letter in enumerate("qkv"):
        if f"self_attn.{letter}_proj" in name:
            return tensors[name.replace(f"self_attn.{letter}_proj", "attention.qkv")].chunk(3)[number]
        if f"encoder_attn.{letter}_proj" in name:
            return tensors[name.replace(f"encoder_attn.{letter}_proj", "cross_attention.kv")].chunk(2)[number - 1]
    return tensors[name]


def source_ids() -> torch.Tensor:
    """(4, 8), padded on the right."""
    return nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in SOURCES], batch_first=True, padding_value=PAD)


def assert_same_texts(pair, end: int | None = None, **options) -> torch.Tensor:
    """What both write for four sources in one batch, and what we write for the same sources padded on the left."""
    ours, theirs = pair
    names = {"num_beams": "beams", "num_return_sequences": "samples", "length_penalty": "length_penalty"}
    rules = {names[name]: value for name, value in options.items()} or {"temperature": 0}
    filler = PAD if end is None else end
    asked = GenerationConfig(
        max_new_tokens=NEW,
        do_sample=False,
        decoder_start_token_id=START,
        pad_token_id=filler,
        eos_token_id=end,
        **options,
    )
    expected = theirs.generate(source_ids(), attention_mask=REAL.long(), generation_config=asked)
    order = REAL.int().argsort(dim=1, stable=True)
    for ids, attention_mask in ((source_ids(), REAL), (source_ids().gather(1, order), REAL.gather(1, order))):
        found = ours.generate(ids, torch.full((4, 1), START), NEW, source_mask=attention_mask, end=end, **rules)
        assert found.tolist() == expected.tolist()
    return found


def common_end(pair) -> int:
    """A token that comes up before the last."""
    free = pair[0].generate(source_ids(), torch.full((4, 1), START), NEW, source_mask=REAL, temperature=0)
    return int(free[:, 3:-1].mode().values[0])


@torch.no_grad()
def test_logits_are_marians(pair):
    ours, theirs = pair
    targets = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(6))
    expected = theirs(source_ids(), attention_mask=REAL.long(), decoder_input_ids=targets).logits
    torch.testing.assert_close(ours(source_ids(), targets, REAL), expected, atol=2e-5, rtol=0)


def test_greedy_equals_marians(pair):
    assert len(assert_same_texts(pair).unique(dim=0)) > 1
    end = common_end(pair)
    assert (assert_same_texts(pair, end=end) == end).any()


@pytest.mark.parametrize(
    "options",
    [{}, {"length_penalty": 0.0}, {"length_penalty": 2.5}, {"length_penalty": -1.0}, {"num_return_sequences": 3}],
    ids=str,
)
def test_beam_search_equals_marians(pair, options):
    assert_same_texts(pair, end=common_end(pair), num_beams=3, **options)


def test_the_length_penalty_changes_what_is_best(pair):
    end = common_end(pair)
    short, long = (assert_same_texts(pair, end=end, num_beams=3, length_penalty=penalty) for penalty in (-4.0, 4.0))
    assert (short == end).sum() > (long == end).sum() or short.shape[1] < long.shape[1]


def sources_stay_when_beams_are_made(patch):
    def select(self, rows):
        cache.KVCache.select(self, rows)
        self.sources = [
            cache.Source(*(part.repeat(len(rows) // len(part), 1, 1, 1) for part in source)) for source in self.sources
        ]

    patch.setattr(cache.SourceCache, "select", select)


def targets_forget_what_they_wrote(patch):
    patch.setattr(cache.KVCache, "positions", lambda self, T, device, first=None: torch.zeros(T).long())


@pytest.mark.parametrize("sabotage", [sources_stay_when_beams_are_made, targets_forget_what_they_wrote])
def test_a_wrong_cache_fails_the_comparison(pair, monkeypatch, sabotage):
    sabotage(monkeypatch)
    with pytest.raises(AssertionError):
        assert_same_texts(pair, num_beams=3)


@torch.no_grad()
def test_the_decoder_is_gpt_2_with_cross_attention():
    ours = randomise(EncoderDecoder(EncoderDecoderConfig(**SHAPE)), 0.2)
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_positions=24, n_embd=32, n_layer=2, n_head=4, add_cross_attention=True)
    ).eval()
    rows = {
        PREFIX + name: (our if our.startswith("token") else "decoder." + our, transposed)
        for name, our, transposed in expand(2)
    }
    for i in range(2):
        for name, our in {"c_attn": "kv", "q_attn": "q", "c_proj": "out"}.items():
            rows |= {
                f"transformer.h.{i}.crossattention.{name}.{kind}": (
                    f"decoder.blocks.{i}.cross_attention.{our}.{kind}",
                    kind == "weight",
                )
                for kind in ("weight", "bias")
            }
        rows |= {
            f"transformer.h.{i}.ln_cross_attn.{kind}": (f"decoder.blocks.{i}.norm_cross.{kind}", False)
            for kind in ("weight", "bias")
        }
    parameters = dict(theirs.named_parameters())
    assert parameters.keys() == rows.keys()
    for name, (our, transposed) in rows.items():
        tensor = ours.get_parameter(our)
        parameters[name].copy_(tensor.T if transposed else tensor)
    targets = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(6))
    expected = theirs(targets, encoder_hidden_states=ours.encode(source_ids(), REAL), encoder_attention_mask=REAL)
    torch.testing.assert_close(ours(source_ids(), targets, REAL), expected.logits, atol=2e-5, rtol=0)
