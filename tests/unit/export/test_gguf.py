"""GGUF: what the file holds, and that llama.cpp writes the same text in every prompt style."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from finetune.checkpoints.sources import load
from finetune.errors import RunError, WeightsError
from finetune.export import extras, gguf
from finetune.export.exportable import Conversation, Exportable
from finetune.files import damage
from finetune.models.gpt import GPT, GPTConfig
from finetune.tasks.classify.job import build_model
from finetune.tasks.instruct.examples import conversation_ids
from finetune.tasks.instruct.prompts import chat_template, markers, ollama_template, pieces
from finetune.tasks.instruct.records import Dialogue, Message
from finetune.tasks.instruct.settings import Instruct
from finetune.tokenizer import Tokenizer

TOKENIZER = Tokenizer.of_bytes()


def dialogue(said):
    return Dialogue(0, [Message(**message) for message in said])


STYLES = {
    "alpaca": Instruct(style="alpaca"),
    "plain": Instruct(style="plain"),
    "chat": Instruct(style="chat"),
    "own": Instruct(template='Q: {instruction}\n"A" é:'),
}
QUESTIONS = [
    "Name three colours.",
    "What is the sea?",
    "Why  two   spaces?\nAnd a line",
    "Count: 1, 2,",
    "é 😀 ...",
    "x",
]


@pytest.fixture(scope="module")
def mini():
    return load("mini")


def small(width=16):
    return GPT(GPTConfig(TOKENIZER.vocab_size, 32, width, 2, 2)).initialise(0, std=0.2).eval()


def run_of(model, tokenizer, settings):
    """What the task hands over, with conversations in the style."""
    talks = [[{"role": "user", "content": question}] for question in QUESTIONS]
    if settings.style == "chat" and not settings.template:
        said = [*talks[0], {"role": "assistant", "content": "red, blue"}, *talks[1]]
        talks += [said, [{"role": "system", "content": "be brief"}, *said]]
    return Exportable(
        "run",
        model,
        tokenizer,
        str,
        tokenizer_settings={"chat_template": chat_template(settings)},
        stop=[f"\n{marker}" for marker in markers(settings)],
        ollama_template=ollama_template(settings),
        conversations=[Conversation(said, conversation_ids(dialogue(said), tokenizer, settings)) for said in talks],
    )


@pytest.mark.parametrize("style", STYLES)
def test_llama_cpp_writes_the_same_in_every_style(mini, tmp_path, style):
    thing = run_of(*mini, STYLES[style])
    found = gguf.write(thing, tmp_path / "gguf")
    total = len(thing.conversations)
    assert found.compared and found.max_logit_difference < 1e-4
    assert found.summary.endswith(f"llama.cpp generates the same text for {total} of {total} prompts")


@pytest.mark.slow
def test_a_quantized_file_says_what_it_costs(mini, tmp_path):
    sizes = {}
    for kind in (None, "f16", "q8_0", "q4_0"):
        found = gguf.write(run_of(*mini, STYLES["plain"]), tmp_path / "gguf", quantize=kind)
        sizes[kind] = (tmp_path / "gguf" / "model.gguf").stat().st_size
        assert (kind in ("q8_0", "q4_0")) == (found.max_logit_difference > 1e-4)  # mini's own weights are f16
        if kind:
            assert found.summary.startswith(f"{kind}: ") and "likeliest token at" in found.summary
    assert sizes["q4_0"] < 0.8 * sizes["q8_0"]
    assert sizes["q8_0"] < 0.6 * sizes["f16"] < 0.36 * sizes[None]


def test_the_file_holds_shape_tokenizer_and_template(tmp_path, monkeypatch):
    from gguf import GGUFReader

    monkeypatch.setattr(gguf, "has_llama_cpp", lambda: False)  # it wants merges, of which bytes have none
    found = gguf.write(run_of(small(), TOKENIZER, STYLES["chat"]), tmp_path / "gguf")
    assert found.summary.endswith("; xllamacpp is not installed")
    reader = GGUFReader(tmp_path / "gguf" / "model.gguf")
    held = {name: field.contents() for name, field in reader.fields.items()}
    assert held["general.architecture"] == "gpt2" and held["gpt2.block_count"] == 2
    assert held["gpt2.feed_forward_length"] == 64 and held["gpt2.context_length"] == 32
    assert (held["tokenizer.ggml.model"], held["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert held["tokenizer.ggml.tokens"] == [*json.loads(TOKENIZER.vocab_json)]
    assert held["tokenizer.ggml.token_type"] == [1] * 256 + [3]
    assert held["tokenizer.ggml.eos_token_id"] == 256 and held["tokenizer.ggml.add_bos_token"] is False
    assert held["tokenizer.chat_template"] == chat_template(STYLES["chat"])
    assert len(reader.tensors) == 4 + 12 * 2
    modelfile = (tmp_path / "gguf" / "Modelfile").read_text(encoding="utf-8")
    assert modelfile.startswith('FROM ./model.gguf\nTEMPLATE """') and "PARAMETER num_ctx 32\n" in modelfile
    assert as_ollama_reads(modelfile)["stop"] == ["<|endoftext|>", "\nSystem:", "\nUser:", "\nAssistant:"]


def as_ollama_reads(modelfile):
    """Name -> values, by the rule of ollama's parser: what stands between quotes is taken as it is, with no escapes."""
    found, rest = {}, modelfile
    while rest:
        name, _, rest = rest.partition(" ")
        if name == "PARAMETER":
            name, _, rest = rest.partition(" ")
        mark = next((mark for mark in ('"""', '"') if rest.startswith(mark)), "")
        value, _, rest = rest.removeprefix(mark).partition(f"{mark}\n")
        found.setdefault(name, []).append(value)
    return found


def turn(template, system="", prompt="", response=""):
    """A turn as ollama renders it."""
    template = re.sub(r"{{ if .System }}(.*?){{ end }}", lambda own: own[1] if system else "", template, flags=re.S)
    spaced = bool(response) and response[0] != " "
    template = re.sub(r"{{ if and .Response [^}]* }}(.*?){{ end }}", lambda own: own[1] * spaced, template)
    for name, value in (("System", system), ("Prompt", prompt), ("Response", response)):
        template = template.replace(f"{{{{ .{name} }}}}", value)
    return template.replace('{{ "{{" }}', "{{")


@pytest.mark.parametrize("style", [*STYLES, "braces"])
def test_the_modelfile_s_template_is_the_prompt(tmp_path, monkeypatch, style):
    monkeypatch.setattr(gguf, "has_llama_cpp", lambda: False)
    settings = STYLES.get(style) or Instruct(template="{{ is text\n{instruction}\n>")
    thing = replace(run_of(small(), TOKENIZER, settings), generation={"max_new_tokens": 7})
    gguf.write(thing, tmp_path / "gguf")
    read = as_ollama_reads((tmp_path / "gguf" / "Modelfile").read_text(encoding="utf-8"))
    assert read["stop"] == ["<|endoftext|>", *thing.stop] and read["num_predict"] == ["7"]
    [template] = read["TEMPLATE"]
    before, cut, _ = template.partition("{{ if and .Response")  # as in the last turn
    asked = turn(before, prompt="what?")
    assert asked == pieces(dialogue([{"role": "user", "content": "what?"}]), settings)[0].text
    if cut:
        said = [("system", "be brief"), ("user", "a?"), ("assistant", "b c"), ("user", "what?"), ("assistant", "d")]
        *parts, _ = pieces(dialogue([{"role": role, "content": content} for role, content in said]), settings)
        expected = "".join(part.text + "<|endoftext|>" * part.answer for part in parts)
        for sent in ("b c", " b c"):  # a program may send the answer back with or without its first blank
            assert turn(template, "be brief", "a?", sent) + asked == expected


def test_a_file_that_reads_differently_is_never_there(tmp_path, monkeypatch):
    real = gguf.gpt_tensors

    def off(model):
        tensors = real(model)
        tensors["transformer.h.1.mlp.c_fc.weight"][0, 0] += 1
        return tensors

    monkeypatch.setattr(gguf, "gpt_tensors", off)
    with pytest.raises(WeightsError, match="a reader in plain numpy reads the export differently"):
        gguf.write(Exportable("run", small(), TOKENIZER, str), tmp_path / "gguf")
    assert not [*tmp_path.iterdir()]


def test_another_prompt_in_llama_cpp_is_no_export(mini, tmp_path):
    thing = run_of(*mini, STYLES["plain"])
    thing.tokenizer_settings["chat_template"] = "{{ 'Something else altogether: ' }}{{ messages[0]['content'] }}"
    with pytest.raises(WeightsError, match="llama.cpp reads the export differently"):
        gguf.write(thing, tmp_path / "gguf")


def test_what_llama_cpp_cannot_hold_is_refused(tmp_path, monkeypatch):
    with pytest.raises(RunError, match="Export a classifier with --format onnx"):
        gguf.write(Exportable("run", build_model(small(), 2, seed=0), TOKENIZER, str), tmp_path / "gguf")
    with pytest.raises(RunError, match="a multiple of 32; got 16"):
        gguf.write(Exportable("run", small(), TOKENIZER, str), tmp_path / "gguf", quantize="q8_0")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"pip install 'gpt2-finetune\[gguf\]'"):
        gguf.write(Exportable("run", small(), TOKENIZER, str), tmp_path / "gguf")
    assert not [*tmp_path.iterdir()]


def test_a_model_without_a_prompt_goes_on_with_a_text(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "has_llama_cpp", lambda: False)
    writing = {"do_sample": True, "temperature": 0.8, "top_k": 50, "max_new_tokens": 60}
    gguf.write(Exportable("run", small(), TOKENIZER, str, generation=writing), tmp_path / "gguf")
    readme, modelfile = ((tmp_path / "gguf" / name).read_text(encoding="utf-8") for name in ("README.md", "Modelfile"))
    assert "chat template" not in readme and "llama-completion -m model.gguf -p" in readme
    read = as_ollama_reads(modelfile)
    assert (read["temperature"], read["top_k"], read["num_predict"]) == (["0.8"], ["50"], ["60"])
    assert "TEMPLATE" not in read


def test_what_is_read_back_is_what_was_there(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "has_llama_cpp", lambda: False)
    model = small()
    gguf.write(Exportable("run", model, TOKENIZER, str), tmp_path / "gguf")
    found = gguf.read_gguf(tmp_path / "gguf" / "model.gguf")
    for name, tensor in gguf.gpt_tensors(model).items():
        np.testing.assert_array_equal(found[name.removeprefix("transformer.")], tensor.numpy())


def test_a_head_of_its_own_is_refused(tmp_path):
    tagger = Exportable("run", small(), TOKENIZER, str, layout=lambda _: NotImplemented)
    with pytest.raises(RunError, match="a head of its own, which GGUF does not support"):
        gguf.write(tagger, tmp_path / "gguf")
    assert not (tmp_path / "gguf").exists()


def test_the_manifest_names_every_file_but_the_readme(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "has_llama_cpp", lambda: False)  # which does not load a vocabulary of bytes
    gguf.write(Exportable("run", small(), TOKENIZER, str), tmp_path / "gguf")
    assert not damage(tmp_path / "gguf")
    assert json.loads((tmp_path / "gguf" / "MANIFEST.json").read_text()).keys() == {"model.gguf", "Modelfile"}


def test_a_shape_other_than_gpt2_is_refused(tmp_path):
    from finetune.models.transformer import LLAMA, Transformer, TransformerConfig

    model = Transformer(TransformerConfig(TOKENIZER.vocab_size, 32, 32, 2, 2, **LLAMA)).initialise(0)
    with pytest.raises(RunError, match="a from-scratch decoder, which this format does not support"):
        gguf.write(Exportable("run", model, TOKENIZER, str), tmp_path / "out")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("quantize", "matrix", "tokens"), [("f16", "F16", "F16"), ("q8_0", "Q8_0", "Q8_0"), ("q4_0", "Q4_0", "Q8_0")]
)
def test_matrices_are_stored_as_asked_and_all_else_in_full(tmp_path, monkeypatch, quantize, matrix, tokens):
    from gguf import GGUFReader

    monkeypatch.setattr(gguf, "has_llama_cpp", lambda: False)
    model = small(32)
    found = gguf.write(Exportable("run", model, TOKENIZER, str), tmp_path / "gguf", quantize=quantize)
    kinds = {own.name: own.tensor_type.name for own in GGUFReader(tmp_path / "gguf" / "model.gguf").tensors}
    assert kinds["token_embd.weight"] == tokens and kinds["position_embd.weight"] == "F32"
    assert {kinds[f"blk.{block}.{name}.weight"] for block in (0, 1) for name in ("attn_qkv", "ffn_up")} == {matrix}
    assert {kind for name, kind in kinds.items() if name.endswith("bias") or "norm" in name} == {"F32"}
    if quantize == "f16":  # half a thousandth of a weight turns no token
        assert "the same likeliest token at 100.0%" in found.summary
    assert found.summary in (tmp_path / "gguf" / "README.md").read_text(encoding="utf-8")
