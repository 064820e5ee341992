"""Adapters: where they are put, what they start as, and what merging leaves."""

import pytest
import torch
from torch import nn

from finetune.adapters.lora import LoRALinear, add_lora, lora_layers, lora_tensors, merge
from finetune.errors import RecipeError
from finetune.models.gpt import GPT, GPTConfig

IDS = torch.tensor([[5, 3, 29, 0, 7], [1, 1, 2, 28, 9]])


def small_gpt() -> GPT:
    return GPT(GPTConfig(30, 8, 12, 3, 2)).initialise(0, std=0.2).eval()


def adapted(*targets: str, rank: int = 4, alpha: float = 6.0, dropout: float = 0.0, seed: int = 1) -> GPT:
    """A small GPT with adapters that have learnt something."""
    gpt = small_gpt()
    add_lora(gpt, rank, alpha, dropout, targets or ("attention.qkv", "mlp.down"), seed)
    generator = torch.Generator().manual_seed(2)
    for name, tensor in lora_tensors(gpt).items():
        if name.endswith("lora_B"):
            tensor.data.normal_(0.0, 0.2, generator=generator)
    return gpt


@pytest.mark.parametrize(
    "targets, places",
    [
        (("attention.qkv",), [f"blocks.{i}.attention.qkv" for i in range(3)]),
        (("up", "attention.out"), [f"blocks.{i}.{name}" for i in range(3) for name in ("attention.out", "mlp.up")]),
        (("blocks.1.mlp.*",), ["blocks.1.mlp.up", "blocks.1.mlp.down"]),
        (("blocks.2.attention.out", "out"), [f"blocks.{i}.attention.out" for i in range(3)]),
        (
            ("*",),
            [
                f"blocks.{i}.{name}"
                for i in range(3)
                for name in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
            ],
        ),
    ],
)
def test_the_layers_that_a_target_names_are_swapped_and_no_other(targets, places):
    gpt = small_gpt()
    before = dict(gpt.named_parameters())
    add_lora(gpt, 2, 2.0, 0.0, targets, seed=0)
    assert list(lora_layers(gpt)) == places
    after = dict(gpt.named_parameters())
    assert (
        {name for name in after if name not in before}
        == set(lora_tensors(gpt))
        == {f"{place}.{kind}" for place in places for kind in ("lora_A", "lora_B")}
    )
    assert all(after[name] is parameter for name, parameter in before.items())  # the same names, the same tensors


@pytest.mark.parametrize("target", ["attention.query", "blocks.3.attention.qkv", "tention.qkv", "norm_1", ""])
def test_a_name_of_no_layer_is_refused_with_those_there_are(target):
    with pytest.raises(RecipeError) as caught:
        add_lora(small_gpt(), 2, 2.0, 0.0, ("mlp.up", target), seed=0)
    assert (
        f"no linear layer is called {target!r}; known: blocks.*.attention.qkv, blocks.*.attention.out, "
        "blocks.*.mlp.up, blocks.*.mlp.down." in str(caught.value)
    )


def test_a_rank_that_saves_nothing_is_refused():
    add_lora(small_gpt(), 11, 1.0, 0.0, ("attention.qkv",), seed=0)
    with pytest.raises(RecipeError, match=r"rank of 12 is not below the full rank of blocks.0.attention.qkv.*1 to 11"):
        add_lora(small_gpt(), 12, 1.0, 0.0, ("attention.qkv",), seed=0)


def test_the_first_output_is_the_bases_bit_for_bit():
    plain, gpt = small_gpt(), small_gpt()
    add_lora(gpt, 4, 64.0, 0.5, ("*",), seed=3)
    assert torch.equal(gpt.train()(IDS), plain(IDS))
    assert all(torch.count_nonzero(layer.lora_A) == layer.lora_A.numel() for layer in lora_layers(gpt).values())


def test_what_is_drawn_follows_the_seed_alone():
    first, same, other = (lora_tensors(adapted(seed=seed)) for seed in (1, 1, 2))
    torch.manual_seed(99)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("lora_A"))


def test_dropout_is_on_the_way_into_the_adapter_while_training():
    layer = LoRALinear(nn.Linear(6, 5), 2, 4.0, 0.5, torch.Generator().manual_seed(0))
    layer.lora_B.data.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn(1000, 6, generator=torch.Generator().manual_seed(2))
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    update = layer.eval()(x) - plain
    torch.testing.assert_close(update, x @ layer.lora_A.T @ layer.lora_B.T * 2.0)
    torch.manual_seed(0)
    kept = nn.functional.dropout(x, 0.5)
    torch.manual_seed(0)
    torch.testing.assert_close(layer.train()(x) - plain, kept @ layer.lora_A.T @ layer.lora_B.T * 2.0)


def test_merged_is_unmerged_and_the_base_again_in_shape():
    gpt = adapted("*")
    with torch.no_grad():
        expected = gpt(IDS)
        base = small_gpt()(IDS)
        assert merge(gpt) is gpt
        assert (expected - base).abs().max() > 1
        assert (gpt(IDS) - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert not lora_layers(gpt) and [type(m) for m in gpt.modules()] == [type(m) for m in small_gpt().modules()]
    assert gpt.state_dict().keys() == small_gpt().state_dict().keys()
