"""Hugging Face's layout as a stranger loads it: truncation, cards, chat templates, and both readers."""

import json
import math
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from finetune.checkpoints.layouts import load_directory, model_type
from finetune.errors import WeightsError
from finetune.evaluation.calibration import decide, softmax
from finetune.evaluation.results import Headline, Metric, StartWeights, undefined
from finetune.export import hf, readers
from finetune.export.card import Card, front_matter
from finetune.export.exportable import Conversation, Exportable
from finetune.files import write_manifest
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.gpt import GPT, GPTConfig
from finetune.tasks.classify.bundle import Bundle, BundleCard
from finetune.tasks.classify.export import exportable, transformers_lines
from finetune.tasks.classify.job import build_model
from finetune.tasks.instruct.examples import conversation_ids
from finetune.tasks.instruct.prompts import as_messages, chat_template
from finetune.tasks.instruct.records import Dialogue, Instruction, Message
from finetune.tasks.instruct.settings import Instruct
from finetune.tokenizer import Tokenizer

TOKENIZER = Tokenizer.of_bytes()


def dialogue(said):
    return Dialogue(0, [Message(**message) for message in said])


TEXTS = ["hello", "free cash <|endoftext|>, call now or never", "é" * 40, "x", "it's 10   past 9\n\n\t ok"]
WEIGHTS = StartWeights("tiny", "here", "MIT", {}, fallback=False, note="")


def bundle_of(directory, max_length=8, **card):
    gpt = GPT(GPTConfig(TOKENIZER.vocab_size, 32, 16, 2, 2)).initialise(0, std=0.2)
    model = build_model(gpt, 2, seed=0).eval()
    model.head.weight.data *= 30
    about = BundleCard(
        schema_version=1,
        task="classify",
        labels=["ham", "spam"],
        positive="spam",
        max_length=max_length,
        threshold=0.905,
        temperature=1.5,
        weights=WEIGHTS,
        tokenizer_sha256=TOKENIZER.fingerprint(),
        data_sha256="d" * 64,
        recipe_sha256="e" * 64,
    )
    return hf.write(exportable("run", model, TOKENIZER, about, TEXTS, []), directory)


@pytest.fixture
def without_transformers(monkeypatch):
    monkeypatch.setattr(readers, "has_transformers", lambda: False)


def test_a_stranger_s_tokenizer_truncates_at_the_length_of_the_training(tmp_path):
    from transformers import AutoTokenizer

    bundle_of(tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in TEXTS:
        assert tokenizer(text, truncation=True)["input_ids"] == TOKENIZER.encode(text)[:8]


def test_a_tokenizer_that_truncates_elsewhere_is_no_export(tmp_path, monkeypatch):
    monkeypatch.setattr(hf, "configs", lambda thing: {})  # the checkpoint's own: at the context
    with pytest.raises(WeightsError, match="and 2 token lists equal"):
        bundle_of(tmp_path / "hf")


def test_the_lines_of_the_card_give_the_bundle_s_labels_and_probabilities(tmp_path):
    bundle_of(tmp_path / "hf")
    bundle = Bundle.load(tmp_path / "hf")
    readme = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    code = [line[4:] for line in readme.splitlines() if line.startswith("    ") and "finetune predict" not in line]
    for text in TEXTS:
        names = {}
        exec("\n".join(code).replace('"DIRECTORY"', repr(str(tmp_path / "hf"))).replace('"a text"', repr(text)), names)
        labels, probabilities = bundle.predict([text])
        assert names["label"] == labels[0]
        assert names["probabilities"]["spam"] == pytest.approx(probabilities[0, 1], abs=1e-4)


def test_without_a_threshold_the_likeliest_label_is_taken():
    card = BundleCard(
        schema_version=1,
        task="classify",
        labels=["a", "b", "c"],
        positive=None,
        max_length=8,
        threshold=None,
        temperature=2.0,
        weights=WEIGHTS,
        tokenizer_sha256="",
        data_sha256="",
        recipe_sha256="",
    )
    logits = {"a": 1.0, "b": 3.0, "c": -1.0}
    costs = [[0.0, 9.0, 1.0], [1.0, 0.0, 1.0], [1.0, 9.0, 0.0]]
    decided = {"scores": [{"label": label, "score": score} for label, score in logits.items()], "exp": math.exp}
    exec("\n".join(transformers_lines(replace(card, costs=costs, abstain_below=0.7))[4:]), decided)
    assert decided["label"] == "abc"[decide(softmax([list(logits.values())], 2.0), None, None, costs)[0]] == "a"
    assert decided["decision"] == "abstain" and decided["probabilities"]["a"] < 0.7
    names = {"scores": [{"label": label, "score": score} for label, score in logits.items()], "exp": math.exp}
    exec("\n".join(transformers_lines(card)[-3:]), names)
    expected = softmax([list(logits.values())], 2.0)
    assert names["label"] == "abc"[decide(expected, None, None)[0]]
    np.testing.assert_allclose([*names["probabilities"].values()], expected[0])


@pytest.mark.parametrize("kind", ["classifier", "language model", "encoder-decoder"])
def test_without_transformers_the_plain_reader_compares_and_says_so(tmp_path, without_transformers, kind):
    if kind == "classifier":
        found = bundle_of(tmp_path / "hf")
        assert found.same_labels == found.texts == len(TEXTS)
    else:
        found = hf.write(Exportable("run", body_of(kind), TOKENIZER, str), tmp_path / "hf")
    assert found.compared and 0 < found.max_logit_difference < 1e-4
    assert found.summary.startswith("a reader in plain numpy gives the same")
    assert found.summary.endswith("; transformers is not installed")


def body_of(kind):
    if kind == "encoder-decoder":
        config = EncoderDecoderConfig(TOKENIZER.vocab_size, 32, 16, 2, 2, encoder_layers=1)
        return EncoderDecoder(config).initialise(0, std=0.2).eval()
    return GPT(GPTConfig(TOKENIZER.vocab_size, 32, 16, 2, 2)).initialise(0, std=0.2).eval()


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("kind", "writer", "name"),
    [
        ("language model", "write_model", "transformer.h.1.mlp.c_fc.weight"),
        ("encoder-decoder", "write_model", "model.decoder.layers.1.encoder_attn.k_proj.weight"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "off", "extra"])
def test_either_reader_sees_a_damaged_file(tmp_path, monkeypatch, plain, kind, writer, name, damage):
    from safetensors.torch import load_file, save_file

    if plain:
        monkeypatch.setattr(readers, "has_transformers", lambda: False)
    own = getattr(hf, writer)

    def broken(directory, *more):
        own(directory, *more)
        tensors = load_file(directory / "model.safetensors")
        if damage == "missing":
            del tensors[name]
        elif damage == "off":
            tensors[name][0, 0] += 1
        else:
            tensors["transformer.extra.weight"] = torch.zeros(2)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(hf, writer, broken)
    with pytest.raises(WeightsError):
        hf.write(Exportable("run", body_of(kind), TOKENIZER, str), tmp_path / "hf")
    assert not [*tmp_path.iterdir()]


def test_an_encoder_decoder_is_a_blenderbot_and_comes_back_bit_for_bit(tmp_path):
    from transformers import AutoModelForSeq2SeqLM

    model = body_of("encoder-decoder")
    found = hf.write(Exportable("run", model, TOKENIZER, str), tmp_path / "hf")
    assert found.summary.startswith("transformers gives") and found.max_logit_difference < 1e-5
    assert model_type(tmp_path / "hf") == "blenderbot"
    again = load_directory(tmp_path / "hf").model
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(again.named_parameters())[name]), name
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf")
    source = torch.tensor([TOKENIZER.encode("a source")])
    start = torch.tensor([[TOKENIZER.end_of_text]])
    ours = model.generate(source, start, 12, end=TOKENIZER.end_of_text, temperature=0.0)
    written = theirs.generate(input_ids=source, attention_mask=torch.ones_like(source), max_new_tokens=12)
    assert ours.tolist() == written.tolist()
    theirs.save_pretrained(tmp_path / "again")
    TOKENIZER.save(tmp_path / "again")
    saved = load_directory(tmp_path / "again").model
    assert torch.equal(saved(source, start), model(source, start))


def test_a_shape_that_blenderbot_cannot_hold_has_a_layout_of_its_own(tmp_path):
    config = EncoderDecoderConfig(TOKENIZER.vocab_size, 32, 16, 1, 2, positions="rotary")
    found = hf.write(Exportable("run", EncoderDecoder(config).initialise(0).eval(), TOKENIZER, str), tmp_path / "hf")
    assert "is our own" in found.summary and model_type(tmp_path / "hf") == "finetune-encoder-decoder"


def test_the_llama_shape_is_a_llama_and_is_read_back_where_transformers_is_missing(tmp_path, monkeypatch):
    from finetune.models.transformer import LLAMA, Transformer, TransformerConfig

    model = Transformer(TransformerConfig(TOKENIZER.vocab_size, 32, 16, 2, 2, **LLAMA)).initialise(0, std=0.2).eval()
    found = hf.write(Exportable("run", model, TOKENIZER, str), tmp_path / "hf")
    assert found.summary.startswith("transformers gives") and found.max_logit_difference < 1e-4
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    monkeypatch.setattr(hf, "has_transformers", lambda: False)
    assert (
        "transformers is not installed" in hf.write(Exportable("run", model, TOKENIZER, str), tmp_path / "hf").summary
    )


@pytest.mark.parametrize("change", [{"activation_function": "gelu"}, {"scale_embedding": True}, {"encoder_ffn_dim": 8}])
def test_another_blenderbot_is_refused(tmp_path, change):
    hf.write(Exportable("run", body_of("encoder-decoder"), TOKENIZER, str), tmp_path / "hf")
    config = tmp_path / "hf" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    write_manifest(tmp_path / "hf")
    with pytest.raises(WeightsError, match=f"{[*change][0]} differs from that of GPT-2's blocks"):
        load_directory(tmp_path / "hf")


STYLES = [
    Instruct(style="alpaca"),
    Instruct(style="plain"),
    Instruct(style="chat"),
    Instruct(template='Q: {instruction}\n"{input}"\t\\ é 😀 A:'),
]
ASKED = [{"role": "user", "content": "Name it's {{ 7*7 }}\n  two"}]
TALK = [
    {"role": "system", "content": "be brief"},
    *ASKED,
    {"role": "assistant", "content": "an  answer "},
    {"role": "user", "content": "and?"},
]
SENT_BACK = [*ASKED, {"role": "assistant", "content": " an answer as the pipeline gives it"}, TALK[-1]]


@pytest.mark.parametrize("settings", STYLES, ids=["alpaca", "plain", "chat", "own"])
def test_the_chat_template_is_the_run_s_prompt_token_by_token(tmp_path, monkeypatch, settings):
    from transformers import AutoTokenizer, pipeline

    several = settings.style == "chat" and not settings.template
    talks = [ASKED, *([TALK, TALK[1:], SENT_BACK] if several else [])]
    prompts = [conversation_ids(dialogue(said), TOKENIZER, settings) for said in talks]
    thing = Exportable(
        "run",
        body_of("language model"),
        TOKENIZER,
        str,
        tokenizer_settings={"chat_template": chat_template(settings), "split_special_tokens": not several},
        generation={"do_sample": False, "max_new_tokens": 5},
        conversations=[Conversation(*pair) for pair in zip(talks, prompts, strict=True)],
    )
    with monkeypatch.context() as patch:
        patch.setattr(readers, "has_transformers", lambda: False)
        plain = hf.write(thing, tmp_path / "hf")
    found = hf.write(thing, tmp_path / "hf")
    for own in (plain, found):
        assert f"its chat template reproduces the prompts of {len(talks)} records token for token" in own.summary
    assert plain.summary.startswith("a reader in plain numpy")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.padding_side == "left"
    typed = [{"role": "user", "content": "what is <|endoftext|>?"}]
    options = {"sanitize_control_tokens": True} if several else {}
    ids = tokenizer.apply_chat_template(typed, add_generation_prompt=True, return_dict=False, **options)
    assert ids == conversation_ids(dialogue(typed), TOKENIZER, settings)
    short = [{"role": "user", "content": "hi"}]
    prompt = conversation_ids(dialogue(short), TOKENIZER, settings)
    if len(prompt) < 27:  # of the 32 that this model reads
        ours = thing.model.generate(torch.tensor([prompt]), 5, end=TOKENIZER.end_of_text, temperature=0.0)
        written = pipeline("text-generation", str(tmp_path / "hf"))(short)[0]["generated_text"][-1]["content"]
        assert written == TOKENIZER.decode([i for i in ours[0, len(prompt) :].tolist() if i != TOKENIZER.end_of_text])
    if not several:
        from jinja2 import TemplateError

        with pytest.raises(TemplateError, match="one question"):
            tokenizer.apply_chat_template(TALK)


@pytest.mark.parametrize("plain", [False, True])
def test_another_chat_template_is_no_export(tmp_path, monkeypatch, plain):
    if plain:
        monkeypatch.setattr(readers, "has_transformers", lambda: False)
    thing = Exportable(
        "run",
        body_of("language model"),
        TOKENIZER,
        str,
        tokenizer_settings={"chat_template": "{{ messages[0]['content'] }}!"},
        conversations=[Conversation(ASKED, TOKENIZER.encode(ASKED[0]["content"]))],
    )
    with pytest.raises(WeightsError, match="the chat template gives a different prompt"):
        hf.write(thing, tmp_path / "hf")


def test_records_as_messages():
    assert as_messages(Instruction(0, "a", "b", "c"), STYLES[0]) is None
    assert as_messages(Instruction(0, "a", "b", "c"), STYLES[2]) == [{"role": "user", "content": "a\nb"}]
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert as_messages(dialogue(said), STYLES[0]) == said[:1]


def test_the_card_is_yaml_that_the_hub_reads():
    from huggingface_hub import ModelCard

    headline = Headline(0.9, 0.8, 0.95, 50, metric="accuracy", split="test")
    source = "openai-community/gpt2 at revision 607a30d783df"
    weights = StartWeights("gpt2", source, "MIT", {}, fallback=False, note="")
    more = {"accuracy": headline, "log_loss": Metric(0.25, 0.2, 0.3, 50), "roc_auc": undefined(50, "one class")}
    card = ModelCard(
        front_matter(Card("text-classification", weights, headline, "my.csv", more), "run") + "# run\n"
    ).data
    assert card.license == "mit" and card.base_model == "openai-community/gpt2"
    assert card.base_model_relation == "finetune"
    assert card.pipeline_tag == "text-classification" and card.library_name == "transformers"
    result, other = card.eval_results  # what is not defined is left out
    assert (other.metric_type, other.metric_value) == ("log_loss", 0.25)
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.9, "my.csv")
    own = ModelCard(front_matter(Card("text-generation", WEIGHTS), "run") + "# run\n").data
    assert own.base_model is None and own.eval_results is None and "model_name" not in own.to_dict()
    assert re.match(r"---\n.*?\n---\n", front_matter(None, "run"), re.DOTALL)


def test_a_difference_of_the_tolerance_is_allowed_and_more_is_refused():
    reader = SimpleNamespace(name="another program", odd={})
    ours = np.zeros(3)
    assert hf._difference(reader, ours, lambda: ours + hf.TOLERANCE) == hf.TOLERANCE
    for other in (hf.TOLERANCE * 1.01, np.nan):
        with pytest.raises(WeightsError, match="another program reads the export differently"):
            hf._difference(reader, ours, lambda other=other: ours + other)


def test_reading_shows_no_bar(tmp_path):
    from transformers.utils import logging

    hf.write(Exportable("run", body_of("language model"), TOKENIZER, str), tmp_path / "hf")
    logging.enable_progress_bar()
    readers.TransformersReader(tmp_path / "hf", "GPT2LMHeadModel")
    assert not logging.is_progress_bar_enabled()


def test_of_many_texts_a_sample_is_compared(tmp_path, monkeypatch, without_transformers):
    monkeypatch.setattr(sys.modules[__name__], "TEXTS", [f"text {number}" for number in range(150)])
    found = bundle_of(tmp_path / "hf")
    assert found.same_labels == found.texts == 100
    assert "same labels on 100 of 100 texts (a sample of 150), largest" in found.summary
