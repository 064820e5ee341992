"""Which precision a machine gets, and what autocast makes of it."""

import pytest
import torch

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


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("processor", [True, False])
def test_bf16_is_asked_of_the_device_that_computes(monkeypatch, gpu, processor):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: processor, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    for device, expected in (("cuda", gpu), ("cpu", processor), ("mps", False)):
        monkeypatch.setattr(precision, "device_type", lambda device=device: device)
        assert precision.has_bf16() is expected
