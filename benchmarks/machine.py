"""A description of the machine that a measurement ran on."""

import platform
from pathlib import Path

import torch

from finetune.training.precision import device_type


def device_name() -> str:
    """The GPU, or the processor if there is none."""
    return torch.cuda.get_device_name() if device_type() == "cuda" else processor_name()


def processor_name() -> str:
    """The processor."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def instruction_set() -> str:
    """The widest vector instructions that torch uses here, and bf16 arithmetic if there is any."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    more = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *more])
