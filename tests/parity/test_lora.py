"""Our adapters against peft's, through the files that our export writes: forward, gradients and merged weights."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from finetune.adapters.lora import LoRALinear, add_lora, lora_tensors, merge
from finetune.checkpoints.convert import gpt_tensors
from finetune.checkpoints.sources import WeightsSource
from finetune.checkpoints.store import load_checkpoint
from finetune.export.peft import adapter_config, adapter_tensors
from finetune.files import write_json
from finetune.models.heads import LossModule

TOLERANCE = 2e-5
STD = 0.2
TARGETS = {"attention": ("attention.qkv", "attention.out"), "all": ("*",), "some": ("blocks.1.*", "mlp.down")}


def adapt(model, targets):
    """Put adapters of rank 3 into a loaded model, A and B and the head random where an error would show."""
    add_lora(model.body, 3, 7.0, 0.0, targets, seed=0)
    generator = torch.Generator().manual_seed(1)
    for tensor in lora_tensors(model).values():
        tensor.data.normal_(0.0, STD, generator=generator)
    return model


def write(model, directory):
    """The two files of an adapter."""
    save_file(adapter_tensors(model), directory / "adapter_model.safetensors", metadata={"format": "pt"})
    write_json(directory / "adapter_config.json", adapter_config(model, WeightsSource("base", directory, None, "")))
    return directory


def theirs(kind, base, directory):
    """peft's model of transformers' base and an adapter directory, ready to train."""
    import transformers
    from peft import PeftModel

    return PeftModel.from_pretrained(
        getattr(transformers, kind).from_pretrained(base), directory, is_trainable=True
    ).eval()


@pytest.fixture(params=TARGETS)
def pair(request, classifier, tmp_path):
    """(ours, peft's, the index of each text's last token)."""
    ours = adapt(load_checkpoint(classifier.directory).model, TARGETS[request.param])
    ours.head.weight.data.neg_()  # the head is the adapter's own, not the base's
    last = (classifier.inputs != classifier.inputs.max()).sum(1) - 1
    return ours, theirs("GPT2ForSequenceClassification", classifier.directory, write(ours, tmp_path)), last


def test_logits_and_gradients_are_those_of_peft(classifier, pair):
    ours, other, last = pair
    logits = ours(classifier.inputs, last)
    expected = other(classifier.inputs, attention_mask=(classifier.inputs != classifier.inputs.max()).long()).logits
    assert (expected - classifier.logits).abs().max() > 1
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
    F.cross_entropy(logits, classifier.labels).backward()
    F.cross_entropy(expected, classifier.labels).backward()
    wanted = {
        name.replace(".default", "").replace("modules_to_save.", ""): parameter.grad
        for name, parameter in other.named_parameters()
        if parameter.requires_grad
    }
    for tensor in (*lora_tensors(ours).values(), ours.head.weight):
        tensor.data, tensor.grad = tensor.grad, None
    found = adapter_tensors(ours)  # the same names, of the gradients
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).abs().max() / gradient.abs().max() < TOLERANCE, name


@torch.no_grad()
def test_merged_weights_are_those_of_peft(classifier, pair):
    ours, other, last = pair
    exact = deepcopy(ours).double()  # in fp32 this shape makes 5e-6 of the last bits
    logits = exact(classifier.inputs, last)
    assert (merge(exact)(classifier.inputs, last) - logits).abs().max() < 1e-12
    merge(ours)
    expected = other.merge_and_unload().state_dict()
    found = gpt_tensors(ours.body)
    assert set(found) == set(expected) - {"score.weight"}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0, msg=name)


@torch.no_grad()
def test_a_language_models_adapter_is_read_too(language_model, tmp_path):
    ours = adapt(LossModule(load_checkpoint(language_model.directory).model), TARGETS["all"])
    other = theirs("GPT2LMHeadModel", language_model.directory, write(ours.body, tmp_path))
    expected = other(language_model.inputs).logits
    assert (expected - language_model.logits).abs().max() > 1
    torch.testing.assert_close(ours.body(language_model.inputs), expected, atol=TOLERANCE, rtol=0)


def break_adapters(kind, model):
    """One mistake that an implementation of LoRA could make."""
    for layer in (module for module in model.modules() if isinstance(module, LoRALinear)):
        if kind == "alpha without the rank":
            layer.alpha *= layer.rank
        elif kind == "transposed":
            product = layer.lora_B @ layer.lora_A
            if product.shape[0] == product.shape[1]:
                layer.lora_A.data, layer.lora_B.data = layer.lora_B.data.T.clone(), layer.lora_A.data.T.clone()
        elif kind == "no update":
            layer.lora_B.data.zero_()


@torch.no_grad()
@pytest.mark.parametrize("pair", ["attention"], indirect=True)
@pytest.mark.parametrize("kind", ["alpha without the rank", "transposed", "no update"])
@pytest.mark.parametrize("merged", [False, True])
def test_a_mistake_fails_the_comparison(classifier, pair, kind, merged):
    ours, other, last = pair
    break_adapters(kind, ours)
    found = (merge(ours) if merged else ours)(classifier.inputs, last)
    expected = other(classifier.inputs, attention_mask=(classifier.inputs != classifier.inputs.max()).long()).logits
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
