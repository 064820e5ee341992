"""Which precision a machine gets, and what autocast makes of it."""

from dataclasses import replace

import pytest
import torch

from finetune.errors import RecipeError
from finetune.tasks.setup import fit
from finetune.training import precision
from finetune.training.precision import autocast


@pytest.mark.parametrize(
    "bf16, asked, width, chosen",
    [
        (True, "auto", 768, "bf16"),
        (True, "auto", 128, "fp32"),
        (False, "auto", 768, "fp32"),
        (False, "bf16", 768, "bf16"),
        (True, "fp32", 768, "fp32"),
    ],
)
def test_auto_takes_bf16_where_it_is_fast(monkeypatch, bf16, asked, width, chosen):
    monkeypatch.setattr(precision, "has_bf16", lambda: bf16)
    found, why = precision.choose_precision(asked, width)
    assert found == chosen and why
    with autocast(found, "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if chosen == "bf16" else torch.float32)


def test_the_device_is_one_that_torch_has():
    device = precision.device_type()
    assert device in ("cuda", "mps", "cpu") and torch.ones(1, device=device).device.type == device
    assert precision.has_bf16() in (True, False)


def test_a_variable_names_another_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for asked, found in (("", "cuda"), ("cpu", "cpu"), ("cuda", "cuda")):
        monkeypatch.setenv("FINETUNE_DEVICE", asked)
        assert precision.device_type() == found
    monkeypatch.setenv("FINETUNE_DEVICE", "mps")
    with pytest.raises(RecipeError, match="known: cuda, cpu"):
        precision.device_type()


def test_tf32_is_on_only_where_and_while_it_is_asked_for(monkeypatch):
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(precision, "device_type", lambda: "cuda")
    with precision.tf32(True):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
    with precision.tf32(False):
        assert torch.get_float32_matmul_precision() == before
    assert precision.why_tf32(True) == ["tf32: fp32 matrix products round their inputs to TF32"]
    assert precision.why_tf32(False) == []
    monkeypatch.setattr(precision, "device_type", lambda: "cpu")
    with precision.tf32(True):
        assert torch.get_float32_matmul_precision() == before
    assert precision.why_tf32(True) == ["tf32: changes nothing here"]


def test_a_training_has_tf32_and_nothing_after_it(toy_job, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "device_type", lambda: "cuda")
    seen = []
    job, settings = toy_job(tf32=True, max_steps=1)
    watched = replace(job, loss_sum=lambda *a: seen.append(torch.get_float32_matmul_precision()) or job.loss_sum(*a))
    fit(watched, settings, tmp_path, {"data": "toy"})
    assert set(seen) == {"high"} and torch.get_float32_matmul_precision() == "highest"


def test_fp16_is_never_chosen_but_named_where_it_may_help(monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    monkeypatch.setattr(precision, "device_type", lambda: "cuda")
    assert precision.choose_precision("auto", 768) == (
        "fp32",
        "no bf16 arithmetic on this cuda; train.precision=fp16 uses fp16 arithmetic",
    )
    assert precision.choose_precision("fp16", 768) == ("fp16", "as requested")


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("processor", [True, False])
def test_bf16_is_asked_of_the_device_that_computes(monkeypatch, gpu, processor):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: processor, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    for device, expected in (("cuda", gpu), ("cpu", processor), ("mps", False)):
        monkeypatch.setattr(precision, "device_type", lambda device=device: device)
        assert precision.has_bf16() is expected
