"""int8 and int4 weights: what is rounded and what is not, and what the plain path gives."""

import shutil

import gguf
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetune.adapters.lora import add_lora
from finetune.errors import RecipeError
from finetune.models import compiled
from finetune.models.compiled import CompiledGPT
from finetune.models.compiler import COMPILERS
from finetune.models.few_bits import Int4Linear, Int8Linear, quantize_groups, quantize_rows, rounded_copy
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.packed import PackedDecoder, few_bits_decoder


@pytest.fixture
def model() -> GPT:
    return GPT(GPTConfig(vocab_size=97, context=40, width=32, layers=2, heads=4)).initialise(1, std=0.2).eval()


def test_each_number_is_the_nearest_of_255_levels_of_its_row():
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1e-4], [1], [30], [0], [2]]
    )
    rounded, scale = quantize_rows(weight)
    assert rounded.dtype == torch.int8 and rounded.shape == weight.shape and scale.shape == (5,)
    assert rounded[[0, 1, 2, 4]].abs().amax(dim=1).tolist() == [127] * 4 and not rounded[3].any()
    levels = np.arange(-127, 128)
    for row, own, step in zip(weight.numpy(), rounded.numpy(), scale.numpy(), strict=True):
        nearest = levels[np.abs(row[:, None] / step - levels).argmin(axis=1)]
        assert (np.abs(row / step - own) <= np.abs(row / step - nearest) + 1e-4).all()


def test_int4_is_q4_0_of_the_gguf_package_but_for_the_rounding_of_the_scale():
    weight = torch.randn(6, 96, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1e-3], [1], [30], [0], [-2], [0.1]]
    )
    levels, scale = quantize_groups(weight)
    assert (levels.dtype, scale.dtype, scale.shape) == (torch.int8, torch.bfloat16, (6, 3))
    assert levels[[0, 1, 2, 4, 5]].amin(dim=1).tolist() == [-8] * 5 and levels.max() == 7 and not levels[3].any()
    kind = gguf.GGMLQuantizationType.Q4_0
    theirs = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind))
    layer = Int4Linear(weight, torch.arange(6.0))
    assert layer.weight.numel() == gguf.quants.quantize(weight.numpy(), kind).size == 6 * 96 * 18 // 32
    own, unit = layer.unpacked(), scale.abs().float().repeat_interleave(32, dim=1)
    assert torch.equal(own, levels * scale.float().repeat_interleave(32, dim=1))
    near = (own - theirs).abs() <= unit * 8 / 256 + 1e-9  # bf16 has 8 bits
    assert near.float().mean() > 0.97 and ((own - theirs).abs() <= 1.04 * unit).all()  # or the next level
    assert (own - weight).square().mean() < 1.03 * (theirs - weight).square().mean()
    x = torch.randn(2, 4, 96, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x), x @ own.T + torch.arange(6.0))
    with pytest.raises(RecipeError, match="width is a multiple of 32; got 48"):
        quantize_groups(weight[:, :48])


@torch.inference_mode()
def test_int4_rounds_the_blocks_matrices_and_int8_the_output(model):
    decoder, ids = few_bits_decoder(model, "int4", compiled=False), torch.tensor([[1, 2, 3, 4], [9, 8, 7, 6]])
    found = decoder.next_logits(ids, decoder.new_cache(4))
    assert (model(ids)[:, -1] - found).abs().max() > 1e-3
    output = Int8Linear(model.token_embedding.weight)
    for own in model.blocks.parameters():
        if own.dim() == 2:
            own.copy_(Int4Linear(own).unpacked())
    torch.testing.assert_close(found, output(model.hidden_states(ids)[:, -1]), atol=2e-5, rtol=0)


@torch.inference_mode()
def test_the_plain_path_is_the_model_with_rounded_matrices_and_the_head_too(model):
    before = {name: own.clone() for name, own in model.state_dict().items()}
    decoder, ids = few_bits_decoder(model, "int8", compiled=False), torch.tensor([[1, 2, 3, 4], [9, 8, 7, 6]])
    found = decoder.next_logits(ids, decoder.new_cache(4))
    output = None
    for name, own in model.named_parameters():
        if own.dim() == 2 and name != "position_embedding.weight":
            rounded, scale = quantize_rows(own)
            if name == "token_embedding.weight":
                output = rounded * scale[:, None]  # as the head; what is looked up stays as it is
            else:
                own.copy_(rounded * scale[:, None])
    expected = F.linear(model.hidden_states(ids)[:, -1], output)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    model.load_state_dict(before)
    assert (model(ids)[:, -1] - found).abs().max() > 1e-3


@torch.inference_mode()
def test_a_rounded_copy_has_every_matrix_rounded_and_is_what_int8_then_computes(model):
    before = {name: own.clone() for name, own in model.state_dict().items()}
    twin = rounded_copy(model)
    for name, own in twin.named_parameters():
        expected = before[name]
        if own.dim() == 2:
            rounded, scale = quantize_rows(expected)
            expected = rounded * scale[:, None]
        assert torch.equal(own, expected), name
    assert all(torch.equal(own, before[name]) for name, own in model.state_dict().items())
    decoder, ids = few_bits_decoder(twin, "int8", compiled=False), torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(decoder.next_logits(ids, decoder.new_cache(4)), twin(ids)[:, -1], atol=2e-5, rtol=0)


@pytest.mark.parametrize(("dtype", "layer"), [("int8", Int8Linear), ("int4", Int4Linear)])
def test_generation_takes_it_where_it_is_asked_for(model, monkeypatch, dtype, layer):
    used, right = [], layer.forward
    monkeypatch.setattr(layer, "forward", lambda self, x: used.append(1) or right(self, x))
    ids = torch.tensor([[5, 6, 7]])
    plain = model.generate(ids, 5, temperature=0)
    assert not used
    found = model.generate(ids, 5, temperature=0, dtype=dtype)
    assert used and found.shape == plain.shape
    with pytest.raises(RecipeError, match="unknown dtype of weights; got int2; known: int8, int4"):
        model.generate(ids, 5, dtype="int2")
    with pytest.raises(RecipeError, match=f"{dtype} weights are made from fp32 weights on a CPU; got torch.bfloat16"):
        model.bfloat16().generate(ids, 5, dtype=dtype)


def test_without_a_compiler_or_with_an_adapter_torch_does_it(model, monkeypatch):
    compiled.compile_step.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert isinstance(few_bits_decoder(model, "int8"), PackedDecoder)
    monkeypatch.undo()
    compiled.compile_step.cache_clear()
    if any(map(shutil.which, COMPILERS)):
        assert isinstance(few_bits_decoder(model, "int8"), CompiledGPT)
    add_lora(model, 2, 4.0, 0.0, ("mlp.up",), 0)
    assert isinstance(few_bits_decoder(model, "int8"), PackedDecoder)
