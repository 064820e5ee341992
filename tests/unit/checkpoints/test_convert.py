"""Every tensor of a file is loaded, skipped on purpose, or an error."""

import pytest
import torch

from finetune.checkpoints.convert import gpt_tensors, load_gpt
from finetune.checkpoints.gpt2_keys import expand
from finetune.errors import WeightsError
from finetune.models.gpt import GPT, GPTConfig


def load(tensors: dict, like: GPT) -> tuple[GPT, object]:
    """Tensors by name into a fresh model of the same shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return load_gpt(like.config, shapes, tensors.__getitem__, "file")


def same(a: GPT, b: GPT) -> bool:
    """Whether all parameters are bit-equal."""
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("layers", [1, 2, 12])
def test_the_table_names_every_tensor_of_transformers_once(layers):
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=4, n_layer=layers, n_head=2)
    shapes = {name: tuple(p.shape) for name, p in GPT2Model(config).named_parameters()}
    ours = {
        name: tuple(p.shape)
        for name, p in GPT(GPTConfig(vocab_size=11, context=8, width=4, layers=layers, heads=2)).named_parameters()
    }
    rows = expand(layers)
    assert len(rows) == len(shapes) == len(ours)
    assert {theirs: ours[name][:: -1 if transposed else 1] for theirs, name, transposed in rows} == shapes
    assert {name for _, name, _ in rows} == set(ours)


def test_transposed_are_exactly_the_conv1d_weights(theirs):
    from transformers.pytorch_utils import Conv1D

    conv = {f"{name}.weight" for name, module in theirs.transformer.named_modules() if isinstance(module, Conv1D)}
    assert {name for name, _, transposed in expand(2) if transposed} == conv


def test_round_trip_is_bit_equal(model):
    tensors = gpt_tensors(model)
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in tensors.values())
    loaded, report = load(tensors, model)
    assert same(loaded, model)
    assert (report.loaded, report.transposed, report.skipped) == (28, 8, [])
    assert report.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_names_without_the_prefix_load_as_well(model):
    bare = {name.removeprefix("transformer."): tensor for name, tensor in gpt_tensors(model).items()}
    assert "h.0.ln_1.bias" in bare and same(load(bare, model)[0], model)


def test_a_name_with_and_without_the_prefix_is_refused(model):
    tensors = gpt_tensors(model)
    tensors["ln_f.bias"] = tensors["transformer.ln_f.bias"]
    with pytest.raises(WeightsError, match="duplicate names"):
        load(tensors, model)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_mask_buffers_are_skipped_and_listed(model, prefix):
    tensors = gpt_tensors(model)
    masks = {
        f"{prefix}h.0.attn.bias": torch.ones(1, 1, 32, 32, dtype=torch.bool).tril(),
        f"{prefix}h.1.attn.masked_bias": torch.tensor(float("-inf")),
    }
    loaded, report = load(tensors | masks, model)
    assert same(loaded, model) and report.skipped == sorted(masks) and report.loaded == 28


def test_a_tied_output_matrix_is_accepted_and_listed(model):
    tensors = gpt_tensors(model)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    loaded, report = load(tensors, model)
    assert same(loaded, model) and report.skipped == ["lm_head.weight"]


@pytest.mark.parametrize("change", [lambda w: w + 1e-3, lambda w: w[:-1], lambda w: w.T])
def test_an_output_matrix_of_its_own_is_refused(model, change):
    tensors = gpt_tensors(model)
    tensors["lm_head.weight"] = change(tensors["transformer.wte.weight"])
    with pytest.raises(WeightsError, match="lm_head.weight differs from wte.weight"):
        load(tensors, model)


def test_one_error_lists_every_mismatch(model):
    tensors = gpt_tensors(model)
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    tensors["transformer.h.0.attn.c_attn.weight"] = tensors["transformer.h.0.attn.c_attn.weight"].T
    tensors["transformer.h.2.ln_1.weight"] = torch.ones(48)
    tensors["extra"] = torch.ones(1)
    tensors["transformer.score.weight"] = torch.ones(2, 48)
    with pytest.raises(WeightsError, match="5 tensors do not fit a GPT-2 of 2 layers and width 48") as caught:
        load(tensors, model)
    for part in (
        "missing h.1.mlp.c_fc.weight (48, 192)",
        "unexpected extra",
        "unexpected transformer.h.2.ln_1.weight",
        "unexpected transformer.score.weight",
        "h.0.attn.c_attn.weight is (144, 48), expected (48, 144)",
    ):
        assert part in str(caught.value)


def test_a_long_list_of_problems_is_cut(model):
    with pytest.raises(WeightsError, match="and 20 more"):
        load({}, model)


def test_nothing_is_read_or_allocated_before_the_names_and_shapes_fit(model):
    huge = GPTConfig(vocab_size=1 << 20, context=1 << 17, width=1 << 14, layers=256, heads=256)  # terabytes
    shapes = {name: tuple(tensor.shape) for name, tensor in gpt_tensors(model).items()}

    def read(name):
        raise AssertionError(f"{name} was read")

    with pytest.raises(WeightsError, match="tensors do not fit"):
        load_gpt(huge, shapes, read, "file")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_fp32(model, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in gpt_tensors(model).items()}
    loaded, report = load(tensors, model)
    assert report.dtypes == [str(dtype).removeprefix("torch.")]
    for theirs, ours, transposed in expand(2):
        there, here = tensors[f"transformer.{theirs}"].float(), loaded.get_parameter(ours)
        assert here.dtype == torch.float32 and torch.equal(here, there.T if transposed else there)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_value_is_refused(model, value):
    tensors = gpt_tensors(model)
    tensors["transformer.h.1.mlp.c_proj.bias"][5] = value
    with pytest.raises(WeightsError, match="h.1.mlp.c_proj.bias contains values that are not finite"):
        load(tensors, model)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.full((48,), 1e300, dtype=torch.float64),
        torch.ones(48, dtype=torch.int64),
        torch.full((48,), float("nan")).to(torch.float8_e4m3fn),
    ],
)
def test_values_outside_the_range_of_fp32_are_refused(model, tensor):
    with pytest.raises(WeightsError, match="ln_f.bias contains values that are not finite"):
        load(gpt_tensors(model) | {"transformer.ln_f.bias": tensor}, model)
