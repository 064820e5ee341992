"""The bottleneck adapter and the prompt that lesson 13 defines: against a hand-written formula, and against peft."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn

from finetune.checkpoints.store import load_checkpoint

LESSON = Path(__file__).resolve().parents[2] / "docs" / "lessons" / "13-lora.md"


@pytest.fixture(scope="module")
def lesson():
    """The names that the page's block of definitions makes."""
    page = LESSON.read_text(encoding="utf-8")
    (block,) = (
        code for code in re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S) if "class WithAdapter" in code
    )
    names = {"torch": torch}
    exec(compile(block, "13-lora.md", "exec"), names)
    return names


def test_an_adapter_adds_its_small_mlp_and_nothing_at_the_start(lesson):
    torch.manual_seed(0)
    part = nn.Linear(6, 8)
    adapter = lesson["WithAdapter"](part, 8, 3)
    x = torch.randn(2, 5, 6)
    assert torch.equal(adapter(x), part(x))
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.5)
    w = {name: parameter.detach().numpy().astype(float) for name, parameter in adapter.named_parameters()}
    y = x.numpy() @ w["part.weight"].T + w["part.bias"]
    hidden = y @ w["down.weight"].T + w["down.bias"]
    hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
    expected = y + hidden @ w["up.weight"].T + w["up.bias"]
    np.testing.assert_allclose(adapter(x).detach().numpy(), expected, atol=1e-5)


def test_loss_and_gradient_of_a_prompt_are_those_of_peft(lesson, language_model):
    from peft import PromptTuningConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    text = language_model.inputs[:1, :40]
    base = GPT2LMHeadModel.from_pretrained(language_model.directory)
    other = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)).eval()
    theirs = other.prompt_encoder["default"].embedding.weight
    labels = text.clone()
    labels[:, 0] = -100  # peft's prompt would predict it; the lesson's does not
    expected = other(input_ids=text, labels=labels).loss
    expected.backward()
    prompt = theirs.detach().clone().requires_grad_()
    model = load_checkpoint(language_model.directory).model.eval()
    loss = lesson["loss_with_prompt"](model, prompt, text[:, :-1], text[:, 1:])
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(prompt.grad, theirs.grad, rtol=1e-4, atol=1e-5 * theirs.grad.abs().max().item())
