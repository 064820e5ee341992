"""int8 weights: what is rounded and what is not, and what the plain path gives."""

import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetune.adapters.lora import add_lora
from finetune.errors import RecipeError
from finetune.models import compiled
from finetune.models.compiled import CompiledGPT
from finetune.models.compiler import COMPILERS
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.int8 import Int8Linear, quantize_rows, rounded_copy
from finetune.models.packed import PackedDecoder, int8_decoder


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


@torch.inference_mode()
def test_the_plain_path_is_the_model_with_rounded_matrices_and_the_head_too(model):
    before = {name: own.clone() for name, own in model.state_dict().items()}
    decoder, ids = int8_decoder(model, compiled=False), torch.tensor([[1, 2, 3, 4], [9, 8, 7, 6]])
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
    decoder, ids = int8_decoder(twin, compiled=False), torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(decoder.next_logits(ids, decoder.new_cache(4)), twin(ids)[:, -1], atol=2e-5, rtol=0)


def test_generation_takes_it_where_it_is_asked_for(model, monkeypatch):
    used, right = [], Int8Linear.forward
    monkeypatch.setattr(Int8Linear, "forward", lambda self, x: used.append(1) or right(self, x))
    ids = torch.tensor([[5, 6, 7]])
    plain = model.generate(ids, 5, temperature=0)
    assert not used
    found = model.generate(ids, 5, temperature=0, dtype="int8")
    assert used and found.shape == plain.shape
    with pytest.raises(RecipeError, match="unknown dtype of weights; got int4"):
        model.generate(ids, 5, dtype="int4")
    with pytest.raises(RecipeError, match="made from fp32 weights on a CPU; got torch.bfloat16"):
        model.bfloat16().generate(ids, 5, dtype="int8")


def test_without_a_compiler_or_with_an_adapter_torch_does_it(model, monkeypatch):
    compiled.compile_step.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert isinstance(int8_decoder(model), PackedDecoder)
    monkeypatch.undo()
    compiled.compile_step.cache_clear()
    if any(map(shutil.which, COMPILERS)):
        assert isinstance(int8_decoder(model), CompiledGPT)
    add_lora(model, 2, 4.0, 0.0, ("mlp.up",), 0)
    assert isinstance(int8_decoder(model), PackedDecoder)
