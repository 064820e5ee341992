"""Adapters made by peft, merged here: the same logits as peft's own model, and nothing read over in silence."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.checkpoints.peft import SwitchableAdapters, base_of, is_adapter, read_adapter
from finetune.checkpoints.sources import locate_weights
from finetune.checkpoints.store import load_checkpoint, write_checkpoint
from finetune.errors import WeightsError
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier
from finetune.tokenizer import Tokenizer

TOKENIZER = Tokenizer.of_bytes()
IDS = torch.randint(0, 257, (2, 9), generator=torch.Generator().manual_seed(3))
LAST = torch.tensor([8, 8])
KINDS = {
    "plain": {"target_modules": ["c_attn"]},
    "all": {"target_modules": "all-linear"},
    "regex": {"target_modules": r".*\.h\.1\.mlp\.c_(fc|proj)"},
    "suffix": {"target_modules": ["attn.c_proj", "c_fc"], "layers_to_transform": [1]},
    "excluded": {"target_modules": ["c_proj"], "exclude_modules": ["h.0.mlp.c_proj"]},
    "patterns": {
        "target_modules": ["c_attn", "c_fc"],
        "rank_pattern": {"h.0.attn.c_attn": 4, "c_fc": 3},
        "alpha_pattern": {"h.1.attn.c_attn": 9},
    },
    "rslora": {"target_modules": ["c_attn"], "use_rslora": True, "r": 4},
    "dora": {"target_modules": ["c_attn", "mlp.c_proj"], "use_dora": True},
    "bias": {"target_modules": ["c_attn"], "bias": "all"},
    "lora bias": {"target_modules": ["c_attn"], "bias": "lora_only"},
    "saved": {"target_modules": ["c_attn"], "modules_to_save": ["ln_f"]},
}


@pytest.fixture
def base(tmp_path):
    gpt = GPT(GPTConfig(TOKENIZER.vocab_size, 32, 16, 2, 2)).initialise(0, std=0.2)
    write_checkpoint(tmp_path / "base", gpt, TOKENIZER)
    return tmp_path / "base"


def made_by_peft(base, directory, task="CAUSAL_LM", seed=1, **settings):
    """An adapter with random weights, saved by peft, and the logits of peft's model."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

    if task == "SEQ_CLS":
        theirs = GPT2ForSequenceClassification.from_pretrained(base, num_labels=3)
    else:
        theirs = GPT2LMHeadModel.from_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(**{"task_type": task, "r": 2, "lora_alpha": 5, "fan_in_fan_out": True} | settings)
        model = get_peft_model(theirs, config).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.empty_like(parameter).normal_(0, 0.2, generator=generator))
            logits = model(IDS).logits
        model.save_pretrained(directory)
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_peft_gives_peft_s_logits(base, tmp_path, kind):
    expected = made_by_peft(base, tmp_path / "adapter", **KINDS[kind])
    found = locate_weights(str(tmp_path / "adapter")).load()
    plain = load_checkpoint(base).model(IDS)
    torch.testing.assert_close(found.model(IDS), expected, atol=2e-5, rtol=0)
    assert (plain - expected).abs().max() > 1e-2  # else it proves nothing


def test_a_classifier_s_adapter_brings_its_head(base, tmp_path):
    expected = made_by_peft(base, tmp_path / "adapter", "SEQ_CLS", target_modules=["c_attn"])
    model = locate_weights(str(tmp_path / "adapter")).load().model
    assert isinstance(model, Classifier)
    torch.testing.assert_close(model(IDS, LAST), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"peft_type": "IA3"}, "peft_type is not supported; got 'IA3'"),
        ({"layer_replication": [[0, 2]]}, "layer_replication="),
        ({"trainable_token_indices": [1]}, "trainable_token_indices="),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"of_the_future": 1}, "of_the_future=1"),
        ({"init_lora_weights": "pissa_niter_4"}, "which changes the base's weights"),
        ({"r": 3}, "has rank 2, and the config says 3"),
        ({"target_modules": ["c_attn", "c_fc"]}, "missing h.0.mlp.c_fc.lora_A.weight"),
        ({"target_modules": ["h.0.attn.c_attn"]}, "unexpected h.1.attn.c_attn.lora_A.weight"),
        ({"target_modules": "("}, "a pattern cannot be read"),
        ({"target_modules": ["q_proj"]}, "match no layer of a GPT-2"),
        ({"lora_alpha": "x"}, "lora_alpha is out of range"),
        ({"modules_to_save": ["ln_f"]}, "missing tensors that modules_to_save names"),
    ],
)
def test_what_would_not_be_honoured_is_refused_by_name(base, tmp_path, change, named):
    made_by_peft(base, tmp_path / "adapter", target_modules=["c_attn"])
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(WeightsError) as refused:
        locate_weights(str(tmp_path / "adapter")).load()
    assert named in str(refused.value)


@pytest.mark.parametrize("kind", ["missing", "extra", "shape"])
def test_every_tensor_is_accounted_for(base, tmp_path, kind):
    made_by_peft(base, tmp_path / "adapter", target_modules=["c_attn"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"
    if kind == "missing":
        del tensors[name]
    elif kind == "extra":
        tensors["base_model.model.transformer.wte.lora_embedding_A"] = torch.zeros(2, 2)
    else:
        tensors[name] = torch.zeros(3, 48)
    save_file(tensors, path)
    words = {"missing": "missing h.1", "extra": "unexpected .*lora_embedding_A", "shape": r"B \(3, 48\)"}[kind]
    with pytest.raises(WeightsError, match=words):
        locate_weights(str(tmp_path / "adapter")).load()


def test_several_adapters_of_one_base_are_switched_without_a_file(base, tmp_path, monkeypatch):
    first = made_by_peft(base, tmp_path / "a", "SEQ_CLS", seed=1, target_modules=["c_attn"])
    second = made_by_peft(base, tmp_path / "b", "SEQ_CLS", seed=2, target_modules=["c_fc"], bias="all")
    gpt = load_checkpoint(base).gpt
    plain = gpt(IDS).detach()
    adapters = SwitchableAdapters(gpt, {name: tmp_path / name for name in "ab"})
    for path in ("a", "b"):
        (tmp_path / path / "adapter_model.safetensors").unlink()
    for name in "abba":
        model = adapters.use(name)
        torch.testing.assert_close(model(IDS, LAST), {"a": first, "b": second}[name], atol=2e-5, rtol=0)
    changed = {*adapters.adapters["a"].parameters(gpt)}
    for name, parameter in gpt.named_parameters():
        if name not in changed:
            assert torch.equal(parameter, dict(load_checkpoint(base).gpt.named_parameters())[name]), name
    assert not torch.equal(gpt(IDS), plain)


def test_the_base_is_named_in_the_adapter(base, tmp_path):
    made_by_peft(base, tmp_path / "adapter", target_modules=["c_attn"])
    assert is_adapter(tmp_path / "adapter") and not is_adapter(base)
    assert base_of(tmp_path / "adapter") == (str(base), None)
    source = locate_weights(str(tmp_path / "adapter"))
    assert source.directory == base and source.content().keys() > {"model.safetensors", "adapter_config.json"}
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(WeightsError, match="does not name its base weights"):
        locate_weights(str(tmp_path / "adapter"))


def test_pickled_tensors_are_refused(base, tmp_path):
    made_by_peft(base, tmp_path / "adapter", target_modules=["c_attn"])
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(WeightsError, match="no adapter_model.safetensors; got adapter_model.bin"):
        read_adapter(tmp_path / "adapter", load_checkpoint(base).gpt)
