"""Choose the device, and between fp32 and bf16 autocast on it."""

import os

import torch

from finetune.errors import RecipeError


def device_type() -> str:
    """What the variable FINETUNE_DEVICE names, else cuda, mps or cpu, in this order.

    Raises RecipeError for a device that is not here.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [name for name, is_here in here.items() if is_here]
    asked = os.environ.get("FINETUNE_DEVICE") or found[0]
    if asked not in found:
        raise RecipeError("FINETUNE_DEVICE is no device of this machine", got=repr(asked), known=", ".join(found))
    return asked


def has_bf16() -> bool:
    """True if the device multiplies bf16 matrices in hardware."""
    if device_type() == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type() == "cpu":
        probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(probe() for probe in probes if probe)
    return False


def choose_precision(asked: str, width: int) -> tuple[str, str]:
    """The precision and why. Narrow models stay in fp32: casting costs them more than faster matrix products save."""
    if asked != "auto":
        return asked, "as asked"
    if not has_bf16():
        return "fp32", f"no bf16 arithmetic on this {device_type()}"
    if width < 256:
        return "fp32", f"bf16 does not pay at width {width}"
    return "bf16", f"this {device_type()} has bf16 arithmetic; evaluation stays in fp32"


def autocast(precision: str, device: torch.device | str) -> torch.autocast:
    """bf16 autocast, or nothing for fp32."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")
