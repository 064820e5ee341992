"""transformers' GPT-2 at a tiny shape, random where a wrong model would show, and written as its users write it."""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import torch

SHAPE = {"n_layer": 3, "n_embd": 48, "n_head": 4, "n_positions": 64, "vocab_size": 300}
STD = 0.2  # at GPT-2's own 0.02 a wrong GELU hides below 1e-5
IGNORED = -100


@dataclass(frozen=True)
class Reference:
    """What transformers gives: gradients by its own names, of the loss over the supervised tokens."""

    directory: Path
    inputs: torch.Tensor  # (B, T)
    labels: torch.Tensor  # as transformers takes them: not shifted; of classes (B,)
    logits: torch.Tensor
    loss: float
    gradients: dict[str, torch.Tensor]


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every parameter normal, norms around one; dropout off."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = ".ln_" in name and name.endswith("weight")
            parameter.normal_(1.0 if norm else 0.0, STD, generator=generator)
    return model.eval()


def write_vocabulary(directory: Path) -> None:
    """GPT-2's 256 bytes, 43 merges of two letters, and the end of text: 300 tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary = [character for _, character in sorted(bytes_to_unicode().items())]
    pairs = list(product("etaoinsr", repeat=2))[:43]
    tokens = [*vocabulary, *("".join(pair) for pair in pairs), "<|endoftext|>"]
    (directory / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradient of every parameter."""
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="session")
def language_model(tmp_path_factory) -> Reference:
    """A GPT2LMHeadModel; some tokens are not supervised, one row not at all."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(**SHAPE, attn_implementation="eager")
    model = randomise(GPT2LMHeadModel(config), seed=1)
    directory = tmp_path_factory.mktemp("language-model")
    model.save_pretrained(directory)
    write_vocabulary(directory)
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randint(0, SHAPE["vocab_size"], (3, SHAPE["n_positions"]), generator=generator)
    labels = inputs.clone()
    labels[0, 10:30], labels[1, ::3], labels[2] = IGNORED, IGNORED, IGNORED
    output = model(inputs, labels=labels)
    output.loss.backward()
    return Reference(directory, inputs, labels, output.logits.detach(), output.loss.item(), gradients_of(model))


@pytest.fixture(scope="session")
def classifier(tmp_path_factory) -> Reference:
    """A GPT2ForSequenceClassification of 5 classes, its batch ragged and padded with the end of text."""
    from transformers import GPT2Config, GPT2ForSequenceClassification

    end = SHAPE["vocab_size"] - 1
    config = GPT2Config(**SHAPE, num_labels=5, pad_token_id=end, attn_implementation="eager")
    model = randomise(GPT2ForSequenceClassification(config), seed=3)
    directory = tmp_path_factory.mktemp("classifier")
    model.save_pretrained(directory)
    write_vocabulary(directory)
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(1, SHAPE["n_positions"] + 1, (64,), generator=generator)
    lengths[:2] = torch.tensor([1, SHAPE["n_positions"]])
    inputs = torch.randint(0, end, (64, SHAPE["n_positions"]), generator=generator)
    inputs[torch.arange(inputs.shape[1]) >= lengths[:, None]] = end
    labels = torch.randint(0, 5, (64,), generator=generator)
    output = model(inputs, attention_mask=(inputs != end).long(), labels=labels)
    output.loss.backward()
    return Reference(directory, inputs, labels, output.logits.detach(), output.loss.item(), gradients_of(model))
