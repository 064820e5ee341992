"""Choose the device and the precision on it, and compute in that precision."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from finetune.errors import RecipeError

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
BF16_WIDTH = 256  # width of the narrowest model that bf16 makes faster


def device_type() -> str:
    """The device that the variable FINETUNE_DEVICE names, else the first of cuda, mps and cpu that is available.

    Raises RecipeError for a device that this machine does not have.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [name for name, is_here in here.items() if is_here]
    asked = os.environ.get("FINETUNE_DEVICE") or found[0]
    if asked not in found:
        raise RecipeError(
            "FINETUNE_DEVICE names a device that this machine does not have", got=repr(asked), known=", ".join(found)
        )
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
        return asked, "as requested"
    if not has_bf16():
        other = "; train.precision=fp16 uses fp16 arithmetic" if device_type() != "cpu" else ""
        return "fp32", f"no bf16 arithmetic on this {device_type()}{other}"
    if width < BF16_WIDTH:
        return "fp32", f"bf16 is not faster at width {width}"
    return "bf16", f"this {device_type()} has bf16 arithmetic; evaluation stays in fp32"


def autocast(precision: str, device: torch.device | str) -> torch.autocast:
    """bf16 or fp16 autocast, or nothing for fp32."""
    kind = AUTOCAST.get(precision)
    return torch.autocast(torch.device(device).type, dtype=kind or torch.bfloat16, enabled=kind is not None)


def why_tf32(asked: bool) -> list[str]:
    """If train.tf32 is set, a line that says what it does on this machine."""
    done = "fp32 matrix products round their inputs to TF32" if device_type() == "cuda" else "changes nothing here"
    return [f"tf32: {done}"] if asked else []


@contextmanager
def tf32(asked: bool) -> Iterator[None]:
    """If asked, let an NVIDIA GPU round the inputs of fp32 matrix products to a mantissa of 10 bits within the block."""
    if not asked or device_type() != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
