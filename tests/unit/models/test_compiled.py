"""The compiled step gives the logits of the model that it was made from; where there is no compiler, that is said."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from finetune.adapters.lora import add_lora
from finetune.errors import RecipeError
from finetune.files import home
from finetune.models import compiled, compiler, large_pages
from finetune.models.compiled import CompiledGPT
from finetune.models.compiler import COMPILERS
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.packed import few_bits_decoder

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler")
SHAPES = {
    "in whole lines": GPTConfig(vocab_size=96, context=40, width=64, layers=2, heads=2),
    "with a rest": GPTConfig(vocab_size=97, context=40, width=36, layers=3, heads=3),
}


def build(config=SHAPES["in whole lines"], kind=torch.bfloat16) -> GPT:
    """A model whose errors would show: norms and biases are random, too."""
    model = GPT(config).initialise(1, std=0.2)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval().to(kind)


@pytest.fixture
def fresh():
    """What is compiled is kept for the process: forget it, before and after."""
    compiled.compile_step.cache_clear()
    yield
    compiled.compile_step.cache_clear()


def stepwise(model, ids: torch.Tensor, prompt: int, start: torch.Tensor | None = None) -> torch.Tensor:
    """Logits after the prompt and after each token that follows it, (T * B, V), read with a cache."""
    cache = model.new_cache(ids.shape[1])
    cache.start = start
    with torch.inference_mode():
        found = [model.next_logits(ids[:, :prompt], cache)]
        found += [model.next_logits(ids[:, at : at + 1], cache) for at in range(prompt, ids.shape[1])]
    return torch.cat(found).double()


@needs_compiler
@pytest.mark.parametrize("flags", ["found", "without the instructions of this machine"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_logits_are_nearer_to_the_exact_ones_than_torchs_in_bf16(fresh, monkeypatch, flags, shape, threads):
    if flags != "found":
        monkeypatch.setattr(compiler, "FLAGS", ((),))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    model = build(SHAPES[shape])
    ids = torch.randint(0, 96, (1, 30), generator=torch.Generator().manual_seed(3))
    found, torchs = stepwise(CompiledGPT(model), ids, 4), stepwise(model, ids, 4)
    exact = stepwise(model.double(), ids, 4)
    torch.set_num_threads(before)
    errors = [((logits - exact)[1:] ** 2).mean().sqrt() / exact.std() for logits in (found, torchs)]
    assert errors[0] < 0.01 and errors[0] < 0.85 * errors[1], errors
    assert torch.equal(found[0], torchs[0])  # the prompt is the model's own work


@needs_compiler
@pytest.mark.parametrize("flags", ["found", "without the instructions of this machine"])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_fp32_and_int8_the_logits_are_the_plain_ones_for_any_number_of_sequences(fresh, monkeypatch, flags, shape):
    if flags != "found":
        monkeypatch.setattr(compiler, "FLAGS", ((),))
    model, generator = build(SHAPES[shape], torch.float32), torch.Generator().manual_seed(3)
    decoder = few_bits_decoder(model, "int8")
    assert isinstance(decoder, CompiledGPT)
    for rows in (1, 3, 8, 11):
        ids, start = torch.randint(0, 96, (rows, 20), generator=generator), torch.arange(rows) % 3  # left-padded
        plain = stepwise(model, ids, 5, start)
        torch.testing.assert_close(stepwise(CompiledGPT(model), ids, 5, start), plain, atol=5e-5, rtol=0)
        rounded = stepwise(few_bits_decoder(model, "int8", compiled=False), ids, 5, start)
        off, own = (stepwise(decoder, ids, 5, start) - rounded).abs(), (rounded - plain).abs()
        assert own.max() > 1e-3  # int8 is something else
        assert off.max() < 2e-3 and off.mean() < 0.02 * own.mean()  # than numbers rounded to 16 bits


@needs_compiler
@pytest.mark.parametrize("flags", ["found", "without the instructions of this machine"])
def test_in_int4_the_logits_are_the_plain_ones_for_any_number_of_sequences(fresh, monkeypatch, flags):
    if flags != "found":
        monkeypatch.setattr(compiler, "FLAGS", ((),))
    model = GPT(GPTConfig(vocab_size=97, context=40, width=320, layers=2, heads=4)).initialise(1, std=0.1).eval()
    generator, decoder = torch.Generator().manual_seed(3), few_bits_decoder(model, "int4")
    assert isinstance(decoder, CompiledGPT)
    for rows in (1, 3, 8, 11):
        ids, start = torch.randint(0, 96, (rows, 12), generator=generator), torch.arange(rows) % 3  # left-padded
        rounded = stepwise(few_bits_decoder(model, "int4", compiled=False), ids, 5, start)
        off = (stepwise(decoder, ids, 5, start) - rounded).abs()
        assert off.max() < 2e-3 and off.mean() < 2e-4
        assert (rounded - stepwise(model, ids, 5, start)).abs().mean() > 0.02  # int4 is something else


@needs_compiler
def test_columns_beyond_a_chunk_and_threads_change_nothing():
    model = GPT(GPTConfig(vocab_size=97, context=16, width=160, layers=1, heads=5)).initialise(1, std=0.1).eval()
    ids, before = torch.randint(0, 96, (9, 12), generator=torch.Generator().manual_seed(3)), torch.get_num_threads()
    plain = stepwise(model, ids, 3)  # the MLP has 640 columns
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.testing.assert_close(stepwise(CompiledGPT(model), ids, 3), plain, atol=5e-5, rtol=0)
    torch.set_num_threads(before)


@needs_compiler
def test_no_sum_of_int8_products_is_too_large():
    """The largest possible weights and numbers, over more columns than an int32 can add up."""
    model = GPT(GPTConfig(vocab_size=97, context=8, width=1056, layers=1, heads=2)).initialise(1, std=0.1).eval()
    mlp = model.blocks[0].mlp
    with torch.no_grad():
        mlp.up.weight.zero_()
        mlp.up.bias.fill_(3.0)
        mlp.down.weight.fill_(0.01)  # 4,224 columns, all of them 127
    ids = torch.tensor([[5, 6, 7]])
    for rows in (1, 2):
        found, plain = (stepwise(few_bits_decoder(model, "int8", way), ids.repeat(rows, 1), 1) for way in (True, False))
        torch.testing.assert_close(found, plain, atol=2e-3, rtol=0)


@needs_compiler
def test_beams_and_samples_are_those_of_the_plain_model():
    model, ids = build(kind=torch.float32), torch.tensor([[5, 6, 7], [1, 2, 3]])
    for options in (
        {"beams": 3},
        {"samples": 2, "temperature": 0.9, "seed": 4},
        {"mask": torch.tensor([[0, 1, 1], [1, 1, 1]])},
    ):
        found = model.generate(ids, 12, compiled=True, **({"temperature": 0} | options))
        assert torch.equal(found, model.generate(ids, 12, compiled=False, **({"temperature": 0} | options)))


@needs_compiler
def test_long_texts_are_generated_by_it_unasked(monkeypatch):
    used, right = [], CompiledGPT.next_logits
    monkeypatch.setattr(CompiledGPT, "next_logits", lambda *given: used.append(1) or right(*given))
    model, ids = build(kind=torch.float32), torch.tensor([[5, 6, 7], [1, 2, 3]])
    plain = model.generate(ids, 30, temperature=0)
    assert not used  # too little work
    monkeypatch.setattr(compiled, "WORTH_IT", sum(own.numel() for own in model.parameters()) * 30)
    assert torch.equal(model.generate(ids, 30, temperature=0), plain) and len(used) == 30
    used.clear()
    for fewer in ({"max_new_tokens": 29}, {"compiled": False}, {"samples": 5, "temperature": 0.5}):
        model.generate(ids, **{"max_new_tokens": 30, "temperature": 0} | fewer)
    assert not used
    compiled.compile_step.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert torch.equal(model.generate(ids, 30, temperature=0), plain)
    compiled.compile_step.cache_clear()


@needs_compiler
def test_what_was_compiled_is_kept_and_used_again_if_nobody_else_can_change_it(fresh, monkeypatch, tmp_path):
    ran, right = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: ran.append(1) or right(*words, **more))
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "own"))
    model, ids = build(), torch.tensor([[5, 6, 7]])

    def generated() -> torch.Tensor:
        compiled.compile_step.cache_clear()
        return model.generate(ids, 5, temperature=0, compiled=True)

    first = generated()
    [kept] = (home() / "compiled").iterdir()
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    assert ran and home() == tmp_path / "own"
    times = len(ran)
    assert torch.equal(generated(), first) and len(ran) == times
    kept.parent.chmod(0o777)
    assert torch.equal(generated(), first) and len(ran) == times + 1
    other = tmp_path / "other" / "compiled" / kept.name
    other.parent.mkdir(parents=True)
    other.parent.chmod(0o700)
    other.write_bytes(b"damaged")
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "other"))
    assert torch.equal(generated(), first) and len(ran) == times + 2
    assert other.read_bytes()[1:4] == b"ELF" or not Path("/proc/self/exe").exists()
    monkeypatch.setenv("FINETUNE_HOME", str(kept))  # a file: no place to keep anything
    assert torch.equal(generated(), first)


def test_tensors_in_large_pages_are_the_same_ones(monkeypatch, tmp_path):
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(shape, generator=generator) for shape in ((9, 4), (9, 4), (700, 800), (800,), (33, 65), (2, 3))
    ]
    given += [None, torch.arange(21, dtype=torch.int8).view(3, 7).T]
    for switch in ("always [madvise] never", "[always] madvise never", "always madvise [never]"):
        (tmp_path / "enabled").write_text(switch)
        monkeypatch.setattr(large_pages, "SWITCH", tmp_path / "enabled")
        found = large_pages.in_large_pages(list(given))
        for own, other in zip(found, given, strict=True):
            assert (own is None) == (other is None) and (own is None or torch.equal(own, other) and own.is_contiguous())
        moved = [own is not other for own, other in zip(found[:6], given[:6], strict=True)]
        if not any(moved):
            continue  # not on Linux, or not asked for
        assert "[madvise]" in switch and moved == [False, False, True, False, True, True]
        assert found[2].data_ptr() % large_pages.PAGE == 0 and found[4].data_ptr() % large_pages.LINE == 0


@needs_compiler
def test_a_text_is_generated_by_the_compiled_step_beyond_the_context_too(monkeypatch):
    used, right = [], CompiledGPT.next_logits
    monkeypatch.setattr(CompiledGPT, "next_logits", lambda *given: used.append(given[1].shape[1]) or right(*given))
    model, ids, notes = build(), torch.tensor([[5, 6, 7]]), []
    found = model.generate(ids, 60, temperature=0, compiled=True, note=notes.append)
    assert used.count(1) > 50 and used[0] == 3 and len(notes) == 1 and found.shape == (1, 63)
    with torch.inference_mode():
        logits = model.float()(found[:, :40])[0, 2:-1]
    chosen = logits.gather(1, found[0, 3:40, None])[:, 0]
    assert (logits.amax(dim=1) - chosen < 0.05 * logits.std()).all()  # greedy, to the rounding of bf16


@pytest.mark.parametrize(
    "change, asked, words",
    [
        (lambda model: model.half(), {}, "weights in fp32 or bf16; got torch.float16"),
        (lambda model: model.norm.float() and model, {}, "weights in fp32 or bf16; got torch.bfloat16, torch.float32"),
        (lambda model: add_lora(model, 2, 4.0, 0.0, ("mlp.up",), 0) and model or model, {}, "adapters merged; got GPT"),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_words(change, asked, words):
    with pytest.raises(RecipeError, match=words):
        change(build()).generate(torch.tensor([[5, 6, 7]]), 3, compiled=True, **asked)


@pytest.mark.parametrize(
    "command, said",
    [
        ("", "none was found"),
        ("/nowhere/c++ -O2", "/nowhere/c\\+\\+"),
        ("python3 -c raise(SystemExit(3))", "python3|exit status 3"),
    ],
)
def test_without_a_working_compiler_the_reason_is_reported(fresh, monkeypatch, command, said):
    monkeypatch.setenv("CXX", command)
    if not command:
        monkeypatch.setenv("PATH", "")
    with pytest.raises(RecipeError, match=f"needs a C\\+\\+ compiler; got .*({said}).*the one in CXX"):
        build().generate(torch.tensor([[5, 6, 7]]), 3, compiled=True)
