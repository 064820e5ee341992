"""Compiled layers give what plain ones give, wherever a compiler is; where none is, that is said."""

import shutil

import pytest
import torch
from torch.nn import functional as F

from finetune.errors import RecipeError
from finetune.models import compiled
from finetune.models.compiled import COMPILERS, CompiledLinear
from finetune.models.gpt import GPT, GPTConfig

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler")


@pytest.fixture
def model():
    """Two blocks of width 32, in bf16."""
    config = GPTConfig(vocab_size=97, context=80, width=32, layers=2, heads=4)
    return GPT(config).initialise(1, std=0.2).eval().to(torch.bfloat16)


@pytest.fixture
def fresh():
    """What is compiled is kept for the process: forget it, before and after."""
    compiled.build.cache_clear()
    yield
    compiled.build.cache_clear()


@needs_compiler
@pytest.mark.parametrize("flags", ["found", "without the instructions of this machine"])
@pytest.mark.parametrize("rows, columns, bias", [(5, 7, True), (64, 32, False), (33, 96, True), (3, 1100, True)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_product_is_that_of_float64_rounded_once(fresh, monkeypatch, flags, rows, columns, bias, threads):
    if flags != "found":
        monkeypatch.setattr(compiled, "FLAGS", ((),))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(rows)
    weight, x = (torch.randn(shape, generator=generator).bfloat16() for shape in ((rows, columns), (1, 1, columns)))
    offset = torch.randn(rows, generator=generator).bfloat16() if bias else None
    layer = CompiledLinear(weight, offset)
    expected = F.linear(x.double(), weight.double(), None if offset is None else offset.double())
    with torch.inference_mode():
        found = layer(x)
        prompt = layer(x.expand(1, 3, columns))
    torch.set_num_threads(before)
    assert found.shape == (1, 1, rows) and found.dtype == torch.bfloat16 and prompt.shape == (1, 3, rows)
    error = (found.double() - expected).abs()  # half a step of bf16, and the sum in fp32
    assert (error <= expected.abs() * 2 ** -8 + 1e-5 * columns).all()


@needs_compiler
def test_not_a_number_stays_one_and_ties_go_to_even():
    eye = torch.eye(4).bfloat16()
    x = torch.tensor([[[float("nan"), float("inf"), 1.0, -0.0]]]).bfloat16()
    layer = CompiledLinear(torch.tensor([[0, 0, 1.0, 0], [0, 0, 1.0, 0]]).bfloat16(),
                           torch.tensor([1 / 256, 3 / 256]).bfloat16())
    finite = torch.tensor([[[0.0, 0.0, 1.0, 0.0]]]).bfloat16()
    with torch.inference_mode():
        assert CompiledLinear(eye)(x)[0, 0].isnan().all()
        assert layer(finite)[0, 0].tolist() == [1.0, 1 + 2 / 128]  # both lie half-way between two numbers of bf16


@needs_compiler
def test_a_text_is_generated_by_the_compiled_layers_and_is_likely_as_the_plain_one(model, monkeypatch):
    used, right = [], CompiledLinear.forward
    monkeypatch.setattr(CompiledLinear, "forward", lambda self, x: used.append(1) or right(self, x))
    ids = torch.tensor([[5, 6, 7]])
    found = model.generate(ids, 20, temperature=0, compiled=True)
    assert len(used) == 20 * (2 * 4 + 1)
    used.clear()
    with torch.inference_mode():
        logits = model.float()(found)[0, 2:-1]
    chosen = logits.gather(1, found[0, 3:, None])[:, 0]
    assert not used and (logits.amax(dim=1) - chosen < 0.05 * logits.std()).all()  # greedy, to the rounding of bf16


def test_what_cannot_be_compiled_is_refused_in_words(model, fresh, monkeypatch):
    ids = torch.tensor([[5, 6, 7]])
    for asked, known in (({"beams": 2}, "one sequence"), ({"samples": 2, "temperature": 1.0}, "one sequence")):
        with pytest.raises(RecipeError, match=known):
            model.generate(ids, 3, compiled=True, **asked)
    with pytest.raises(RecipeError, match="weights in bf16"):
        model.float().generate(ids, 3, compiled=True)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RecipeError, match="none was found"):
        model.bfloat16().generate(ids, 3, compiled=True)
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(RecipeError, match="C\\+\\+ compiler"):
        model.generate(ids, 3, compiled=True)
