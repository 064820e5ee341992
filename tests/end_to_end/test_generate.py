"""``finetune generate`` on the bundled checkpoint: what it shows, and when."""

import shutil

import pytest

from finetune.checkpoints.sources import load
from finetune.cli import use
from finetune.commands import generate as stage
from finetune.models import compiled
from finetune.models.compiled import CompiledGPT
from finetune.models.compiler import COMPILERS

PROMPT = "The history of the"


def continued(options: dict, new: int = 12) -> list[list[int]]:
    """What the model itself adds to the prompt."""
    import torch

    model, tokenizer = load("mini")
    ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(PROMPT)]])
    return model.generate(ids, new, end=tokenizer.end_of_text, **options)[:, ids.shape[1] :].tolist()


@pytest.mark.parametrize(
    "arguments, options",
    [
        ((), {"temperature": 0.8, "top_k": 50}),
        (("--temperature", "0"), {"temperature": 0}),
        (("--top-p", "0.9", "--seed", "3"), {"temperature": 0.8, "top_p": 0.9, "seed": 3}),
        (("--min-p", "0.05", "--temperature", "1.5"), {"temperature": 1.5, "min_p": 0.05}),
        (("--beams", "3", "--no-repeat-ngram", "2"), {"beams": 3, "no_repeat_ngram": 2}),
        (("--beams", "3", "--length-penalty", "-2"), {"beams": 3, "length_penalty": -2.0}),
        (("--top-k", "9", "--repetition-penalty", "1.3"), {"temperature": 0.8, "top_k": 9, "repetition_penalty": 1.3}),
    ],
    ids=str,
)
def test_the_options_reach_the_model(finetune, arguments, options):
    said = finetune("generate", "mini", PROMPT, "--max-new-tokens", "12", *arguments)
    _, tokenizer = load("mini")
    assert said.status == 0 and said.err == ""
    assert said.out == PROMPT + tokenizer.decode_bytes(continued(options)[0]).decode("utf-8", "replace") + "\n"


def test_samples_stand_one_after_the_other(finetune):
    said = finetune("generate", "mini", PROMPT, "--max-new-tokens", "5", "--samples", "3", "--temperature", "2")
    parts = said.out.split("--- ")
    assert [part.split(" ---\n")[0] for part in parts] == ["", "1 of 3", "2 of 3", "3 of 3"]
    assert all(part.split(" ---\n")[1].startswith(PROMPT) for part in parts[1:]) and len(set(parts)) == 4


def test_the_text_comes_token_by_token_and_ends_before_the_stop(finetune, monkeypatch):
    _, tokenizer = load("mini")
    whole = tokenizer.decode(continued({"temperature": 0}, 20)[0])
    stop = whole[10:12]
    parts, say = [], use.say
    monkeypatch.setattr(use, "say", lambda text, **options: (parts.append(text), say(text, **options)))
    said = finetune("generate", "mini", PROMPT, "--max-new-tokens", "20", "--temperature", "0", "--stop", stop)
    assert said.out == PROMPT + whole[: whole.index(stop)] + "\n" and len([part for part in parts if part]) > 3


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--beams", "2", "--top-p", "0.9"), "beam search does not sample"),
        (("--top-p", "0"), "top_p is out of range"),
        (("--temperature", "0", "--top-k", "5"), "temperature 0 is greedy decoding"),
        (("--stop", ""), "stop string"),
        (("--samples", "2", "--temperature", "0"), "cannot return this many different samples"),
        (("--max-new-tokens", "0"), "max-new"),
        (("--max-new-tokens", "9" * 15), "max-new"),
        (("--seed", "9" * 25), "seed is out of range"),
        (("--repetition-penalty", "1e-40"), "repetition_penalty"),
        (("--length-penalty", "nan"), "length_penalty"),
    ],
)
def test_what_makes_no_sense_is_refused(finetune, arguments, words):
    said = finetune("generate", "mini", PROMPT, *arguments)
    assert said.status == 2 and words in said.err and not said.out


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler")
def test_a_compiled_step_writes_the_text(finetune, monkeypatch):
    used, right = [], CompiledGPT.next_logits
    monkeypatch.setattr(CompiledGPT, "next_logits", lambda *given: used.append(1) or right(*given))
    said = finetune("generate", "mini", PROMPT, "--max-new-tokens", "8", "--compile")
    assert said.status == 0 and said.out.startswith(PROMPT) and len(used) == 8
    used.clear()
    assert finetune("generate", "mini", PROMPT, "--max-new-tokens", "8").status == 0 and not used
    monkeypatch.setattr(stage, "device_type", lambda: "meta")  # as if there were a GPU
    again = finetune("generate", "mini", PROMPT, "--max-new-tokens", "8", "--compile")
    assert again.status == 0 and again.out == said.out


def test_without_a_compiler_no_text_is_begun(finetune, monkeypatch):
    compiled.compile_step.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    said = finetune("generate", "mini", PROMPT, "--compile")
    compiled.compile_step.cache_clear()
    assert said.status == 2 and not said.out and "no-such-compiler" in said.err and "the one in CXX" in said.err


def test_a_long_prompt_is_truncated_with_a_warning(finetune):
    said = finetune("generate", "mini", "one two three " * 200, "--max-new-tokens", "3")
    assert said.status == 0 and "more than the context of 256: the model continues from the last 254" in said.err


def test_weights_of_few_bits_write_a_text_and_another_width_is_refused(finetune):
    for dtype in ("int8", "int4"):
        said = finetune("generate", "mini", PROMPT, "--max-new-tokens", "8", "--dtype", dtype, "--temperature", "0")
        assert said.status == 0 and said.out.startswith(PROMPT) and len(said.out) > len(PROMPT), said.err
    said = finetune("generate", "mini", PROMPT, "--dtype", "int2")
    assert said.status == 2 and not said.out and "known: fp32, bf16, int8, int4" in said.err
