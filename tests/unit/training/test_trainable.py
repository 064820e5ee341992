"""What moves under each method, by name; and the settings that follow from the weights."""

import pytest

from finetune.errors import RecipeError
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import LossModule
from finetune.recipe import Train
from finetune.records import SMALL_MODEL
from finetune.tasks.classify.job import build_model
from finetune.training.trainable import adapt, check_shared_blocks, choose_method, choose_settings, freeze

EMBEDDINGS = ["body.token_embedding.weight", "body.position_embedding.weight"]
NORM, HEAD = ["body.norm.weight", "body.norm.bias"], ["head.weight"]


def block(number):
    parts = ("norm_1", "attention.qkv", "attention.out", "norm_2", "mlp.up", "mlp.down")
    return [f"body.blocks.{number}.{part}.{kind}" for part in parts for kind in ("weight", "bias")]


@pytest.mark.parametrize(
    "method, last_blocks, first_block, names",
    [
        ("full", 2, 0, [*EMBEDDINGS, *block(0), *block(1), *block(2), *NORM, *HEAD]),
        ("last-blocks", 1, 2, [*block(2), *NORM, *HEAD]),
        ("last-blocks", 2, 1, [*block(1), *block(2), *NORM, *HEAD]),
        ("last-blocks", 3, 0, [*block(0), *block(1), *block(2), *NORM, *HEAD]),
        ("last-blocks", 9, 0, [*block(0), *block(1), *block(2), *NORM, *HEAD]),
        ("head", 2, 3, HEAD),
    ],
)
def test_a_method_moves_exactly_these(method, last_blocks, first_block, names):
    model = build_model(GPT(GPTConfig(30, 8, 4, 3, 2)), classes=3, seed=0)
    for earlier in ("head", "full"):  # whatever was set before
        freeze(model, model.body, earlier, 1)
        trainable = freeze(model, model.body, method, last_blocks)
        assert sorted(trainable.names) == sorted(names)
        assert {name for name, p in model.named_parameters() if p.requires_grad} == set(names)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert trainable.parameters == sum(sizes[name] for name in names) and trainable.total == sum(sizes.values())
    assert (trainable.method, trainable.first_block) == (method, first_block)


@pytest.mark.parametrize(
    "targets, first_block, places",
    [
        (("attention.qkv", "mlp.up"), 0, [f"{i}.{name}" for i in range(3) for name in ("attention.qkv", "mlp.up")]),
        (
            ("blocks.1.*", "blocks.2.attention.out"),
            1,
            ["1.attention.qkv", "1.attention.out", "1.mlp.up", "1.mlp.down", "2.attention.out"],
        ),
    ],
)
def test_lora_moves_adapters_and_the_head_alone(targets, first_block, places):
    model = build_model(GPT(GPTConfig(30, 8, 4, 3, 2)), classes=3, seed=0)
    adapt(model.body, Train(method="lora", lora_rank=2, lora_targets=targets))
    trainable = freeze(model, model.body, "lora", last_blocks=2)
    names = {f"body.blocks.{place}.{kind}" for place in places for kind in ("lora_A", "lora_B")} | {*HEAD}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == names == set(trainable.names)
    assert trainable.first_block == first_block


def test_a_language_model_has_no_head_to_move():
    model = LossModule(GPT(GPTConfig(30, 8, 4, 3, 2)))
    adapt(model.body, Train(method="lora", lora_rank=2, lora_targets=("attention.out",)))
    assert len(freeze(model, model.body, "lora", 1).names) == 6
    with pytest.raises(RecipeError, match="method head has nothing to train here; known: full, last-blocks, lora"):
        model = LossModule(GPT(GPTConfig(30, 8, 4, 3, 2)))
        freeze(model, model.body, "head", 1)


@pytest.mark.parametrize(
    "method, settings, said",
    [
        (
            "full",
            {},
            "full: 904 of 904 parameters are trained (100.0%), in 41 tensors: "
            "body.token_embedding, body.position_embedding, body.blocks.0-2, body.norm, head",
        ),
        (
            "last-blocks",
            {"last_blocks": 1},
            "last-blocks: 264 of 904 parameters are trained (29.2%), in 15 tensors: body.blocks.2, body.norm, head",
        ),
        ("head", {}, "head: 12 of 904 parameters are trained (1.3%), in 1 tensor: head"),
        (
            "lora",
            {"lora_rank": 1, "lora_targets": ("attention.out", "blocks.0.mlp.up", "blocks.2.mlp.up")},
            "lora: 76 of 968 parameters are trained (7.9%), in 11 tensors: body.blocks.0-2.attention.out.lora_*, "
            "body.blocks.0,2.mlp.up.lora_*, head",
        ),
    ],
)
def test_the_trained_weights_are_reported(method, settings, said):
    model = build_model(GPT(GPTConfig(30, 8, 4, 3, 2)), classes=3, seed=0)
    chosen = Train(method=method, **settings)
    adapt(model.body, chosen)
    assert freeze(model, model.body, method, chosen.last_blocks).describe() == said


@pytest.mark.parametrize(
    "parameters, pretrained, rows, device, method, reason",
    [
        (900_000, False, 10, "cpu", "full", "random weights"),
        (124_000_000, False, 10**6, "cuda", "full", "random"),
        (6_900_000, True, 10**6, "cpu", "full", "small model"),
        (124_000_000, True, 10**6, "cpu", "last-blocks", "a CPU"),
        (1_558_000_000, True, 10, "cpu", "last-blocks", "a CPU"),
        (SMALL_MODEL - 1, True, 10, "cpu", "full", "small model"),
        (SMALL_MODEL, True, 10, "cpu", "last-blocks", "a CPU"),
        (124_000_000, True, 900, "cuda", "last-blocks", "900"),
        (124_000_000, True, 2_000, "cuda", "full", "2,000 rows"),
        (355_000_000, True, 9_000, "mps", "full", "9,000 rows"),
        (774_000_000, True, 9_000, "cuda", "lora", "12 GB"),
        (1_558_000_000, True, 9_000, "cuda", "lora", "25 GB"),
    ],
)
def test_auto_follows_weights_rows_and_machine(parameters, pretrained, rows, device, method, reason):
    chosen, why = choose_method(parameters, pretrained, rows, device)
    assert chosen == method and reason in why
    settings, said = choose_settings(Train(), parameters, pretrained, rows, device)
    assert settings.method == method and said[0] == f"method {method}: {why}"


@pytest.mark.parametrize(
    "method, parameters, pretrained, lr, epochs",
    [
        ("last-blocks", 124_000_000, True, 1e-4, 5),
        ("full", 8_000_000, True, 5e-4, 5),
        ("full", 900_000, False, 1e-3, 12),
        ("head", 124_000_000, True, 1e-3, 5),
        ("lora", 124_000_000, True, 4e-4, 5),
        ("lora", 8_000_000, True, 2e-3, 5),
    ],
)
def test_open_settings_follow_the_weights_and_say_why(method, parameters, pretrained, lr, epochs):
    settings, why = choose_settings(Train(method=method), parameters, pretrained, 1000, "cpu")
    assert (settings.lr, settings.epochs) == (lr, epochs)
    assert [line.split()[0] for line in why] == ["lr", "epochs"] and f"{lr:g}" in why[0]


def test_what_was_asked_for_stays():
    for asked in (Train(method="head", lr=0.03, epochs=7), Train(method="lora", lr=0.03, epochs=7, lora_rank=3)):
        assert choose_settings(asked, 124_000_000, True, 1000, "cpu") == (asked, [])
        high = asked.model_copy(update={"lr": 50.0})
        assert choose_settings(high, 124_000_000, True, 1000, "cpu")[1][0].startswith("warning: lr 50 is far too high")


def test_a_setting_of_lora_that_the_chosen_method_does_not_read_is_refused():
    for method in ("auto", "full"):
        with pytest.raises(RecipeError, match="train.lora_rank is used only by method lora; got method full"):
            choose_settings(Train(method=method, lora_rank=3), 8_000_000, True, 1000, "cpu")


def test_of_an_encoder_decoder_the_top_of_both_sides_moves_and_all_cross_attention():
    body = EncoderDecoder(EncoderDecoderConfig(30, 8, 4, 2, 2, encoder_layers=3))
    model = LossModule(body)
    trainable = freeze(model, body, "last-blocks", 1)
    tops = ("body.encoder.blocks.2.", "body.encoder.norm.", "body.decoder.blocks.1.", "body.decoder.norm.")
    names = {name for name, _ in model.named_parameters()}
    wanted = {name for name in names if name.startswith(tops) or "cross" in name}
    assert set(trainable.names) == wanted and trainable.first_block == 1
    assert {name.split(".")[3] for name in wanted if "cross" in name} == {"0", "1"}
    full = freeze(model, body, "full", 1)
    assert set(full.names) == names and full.first_block == 0
    with pytest.raises(RecipeError, match="method head has nothing to train here"):
        freeze(model, body, "head", 1)


def test_the_last_of_blocks_that_are_one_cannot_be_trained_alone():
    for method in ("full", "head", "lora"):
        check_shared_blocks(method)
    with pytest.raises(RecipeError, match="all layers share the weights of one block"):
        check_shared_blocks("last-blocks")
