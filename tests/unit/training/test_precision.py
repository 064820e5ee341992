"""Which precision a machine gets, and what autocast makes of it."""

import pytest
import torch

from finetune.errors import RecipeError
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
