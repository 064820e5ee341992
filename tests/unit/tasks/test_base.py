"""What moves under each method, by name; and the settings that follow from the weights."""

import pytest

from finetune.models.gpt import GPT, GPTConfig
from finetune.recipe import Train
from finetune.tasks.base import choose_settings, freeze
from finetune.tasks.classify import build_model

EMBEDDINGS = ["gpt.token_embedding.weight", "gpt.position_embedding.weight"]
NORM, HEAD = ["gpt.norm.weight", "gpt.norm.bias"], ["head.weight"]


def block(number):
    parts = ("norm_1", "attention.qkv", "attention.out", "norm_2", "mlp.up", "mlp.down")
    return [f"gpt.blocks.{number}.{part}.{kind}" for part in parts for kind in ("weight", "bias")]


@pytest.mark.parametrize("method, last_blocks, first_block, names", [
    ("full", 2, 0, [*EMBEDDINGS, *block(0), *block(1), *block(2), *NORM, *HEAD]),
    ("last-blocks", 1, 2, [*block(2), *NORM, *HEAD]),
    ("last-blocks", 2, 1, [*block(1), *block(2), *NORM, *HEAD]),
    ("last-blocks", 3, 0, [*block(0), *block(1), *block(2), *NORM, *HEAD]),
    ("last-blocks", 9, 0, [*block(0), *block(1), *block(2), *NORM, *HEAD]),
    ("head", 2, 3, HEAD),
])
def test_a_method_moves_exactly_these(method, last_blocks, first_block, names):
    model = build_model(GPT(GPTConfig(30, 8, 4, 3, 2)), classes=3, seed=0)
    for earlier in ("head", "full"):  # whatever was set before
        freeze(model, model.gpt, earlier, 1)
        trainable = freeze(model, model.gpt, method, last_blocks)
        assert sorted(trainable.names) == sorted(names)
        assert {name for name, p in model.named_parameters() if p.requires_grad} == set(names)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert trainable.parameters == sum(sizes[name] for name in names) and trainable.total == sum(sizes.values())
    assert (trainable.method, trainable.first_block) == (method, first_block)
    assert f"{trainable.parameters:,} of {trainable.total:,} parameters move" in trainable.describe()


@pytest.mark.parametrize("parameters, pretrained, method, lr, epochs", [
    (124_000_000, True, "last-blocks", 1e-4, 5), (8_000_000, True, "full", 5e-4, 5),
    (900_000, False, "full", 1e-3, 12)])
def test_open_settings_follow_the_weights_and_say_why(parameters, pretrained, method, lr, epochs):
    settings, why = choose_settings(Train(), parameters, pretrained)
    assert (settings.method, settings.lr, settings.epochs) == (method, lr, epochs)
    assert [line.split()[0] for line in why] == ["method", "lr", "epochs"]


def test_what_was_asked_for_stays():
    asked = Train(method="head", lr=0.5, epochs=7)
    assert choose_settings(asked, 124_000_000, True) == (asked, [])
    assert choose_settings(Train(method="head"), 124_000_000, True)[0].lr == 1e-3
