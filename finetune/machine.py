"""The machine: versions, hardware, peak memory, time."""

import ctypes
import gc
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "gpt2-finetune",
    "torch",
    "accelerate",
    "tiktoken",
    "safetensors",
    "scikit-learn",
    "numpy",
    "pandas",
    "datasets",
    "transformers",
)
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of mallopt(3)
_kept_bytes = 0  # peak before the last reset, if it still counts


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """The hardware, without anything that identifies the machine or its user."""
    found: dict[str, Any] = {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count() or 1}
    if Path("/proc/cpuinfo").exists():
        models = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        found["cpu"] = models[0] if models else "unknown"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def git_commit() -> str | None:
    """The checkout's commit; None for an installed package, even inside another repository."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return None
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def reset_peak_memory(keep_bytes: int = 0) -> None:
    """Reset the peak memory counter if the system can (Linux); elsewhere the peak is that of the process.

    keep_bytes: an earlier peak to include in ``peak_memory_bytes`` for the stage.
    """
    global _kept_bytes
    _kept_bytes = keep_bytes
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, for its next tensors; glibc alone gives large blocks back each time.

    Every step of a training frees and allocates its gradients and activations. Given back, each of their pages is
    cleared and mapped again by the system, which took a tenth of a step at GPT-2 124M (benchmarks/training_steps.py).
    ``give_back_freed`` still gives everything back. Does nothing if an environment variable of glibc's says how to allocate.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return
    with suppress(OSError, AttributeError):  # only glibc has mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(M_TOP_PAD, 64 << 20)


def release_memory() -> None:
    """Collect garbage and return free memory to the system, so that the next peak is measured separately."""
    gc.collect()
    give_back_freed()


def give_back_freed() -> None:
    """Return free memory to the system."""
    with suppress(OSError, AttributeError):  # only glibc has malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory_bytes() -> int:
    """Peak memory of this process since the last reset, or the kept peak if that is larger."""
    return max(_kept_bytes, latest_peak_bytes())


def latest_peak_bytes() -> int:
    """Peak memory of this process since the last reset only."""
    status = Path("/proc/self/status")
    if status.exists():
        peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        assert peak, "/proc/self/status has no VmHWM"
        return int(peak[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Time a block: yields a function that returns the seconds so far."""
    start = time.monotonic()
    yield lambda: time.monotonic() - start
