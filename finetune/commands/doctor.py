"""Check whether a run would work on this machine; prints plain text to paste into a bug report."""

import os
import platform
import shutil
import sys
from pathlib import Path

from finetune.console import say
from finetune.errors import FinetuneError

GIGABYTE = 10**9
NEEDED_BYTES = 2 * GIGABYTE  # GPT-2 124M, two checkpoints of a run, an export
OURS = ("FINETUNE_HOME", "FINETUNE_MIRROR", "FINETUNE_REGISTRY")
OTHERS = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "HTTPS_PROXY",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


Check = tuple[str, str, bool | None]  # name, value, and whether it is sufficient; None: any value is


def examine() -> list[Check]:
    """The checks of this machine."""
    rows = []
    for check in CHECKS:
        name = check.__name__.strip("_").replace("_", " ")
        try:
            value, ok = check()
        except (FinetuneError, ImportError, OSError, RuntimeError, ValueError, AttributeError) as error:
            value, ok = f"{type(error).__name__}: {error}", False
        rows.append((name, _without_home(value), ok))
    return rows


def show(rows: list[Check]) -> int:
    """Print checks, of this machine or of a run. Returns 0 if everything works, else 2."""
    width = max(len(name) for name, _, _ in rows)
    for name, value, ok in rows:
        first, *more = value.splitlines() or [""]
        say(f"{name:{width}}  {'PROBLEM: ' if ok is False else ''}{first}")
        for line in more:
            say(" " * (width + 2) + line)
    problems = [name for name, _, ok in rows if ok is False]
    say()
    say(f"problems: {', '.join(problems)}" if problems else "everything works")
    return 2 if problems else 0


Line = tuple[str, bool | None]  # value, and whether it is sufficient


def _finetune() -> Line:
    from finetune import __version__

    return f"{__version__} in {Path(__file__).parents[1]}", None


def _python() -> Line:
    bits = 64 if sys.maxsize > 2**32 else 32
    return f"{platform.python_version()} ({platform.python_implementation()}, {bits} bits)", bits == 64


def _system() -> Line:
    return platform.platform(), None


def _packages() -> Line:
    from finetune.machine import versions

    found = versions()
    found.pop("python", None)
    lines = [" ".join(pair) for pair in found.items()]
    return "\n".join(", ".join(lines[start : start + 5]) for start in range(0, len(lines), 5)), None


def _processor() -> Line:
    import torch

    from finetune.machine import hardware

    found = hardware()
    return (
        f"{found.get('cpu', platform.processor() or found['machine'])}, {found['cores']} cores, "
        f"torch uses {torch.get_num_threads()}"
    ), None


def _memory() -> Line:
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.available / GIGABYTE:.1f} of {memory.total / GIGABYTE:.1f} GB free", None


def _device() -> Line:
    import torch

    from finetune.training.precision import device_type

    if device_type() != "cuda":
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        return f"{device_type()} (torch is built {built})", None
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return "\n".join(f"cuda: {gpu.name}, {gpu.total_memory / GIGABYTE:.0f} GB" for gpu in gpus), None


def _precision() -> Line:
    from finetune.training.precision import choose_precision

    precision, why = choose_precision("auto", 768)
    return f"{precision} for GPT-2: {why}", None


def _disk() -> Line:
    here = Path.cwd()
    free, writable = shutil.disk_usage(here).free, os.access(here, os.W_OK)
    value = f"{free / GIGABYTE:.1f} GB free in {here}" + ("" if writable else ", which cannot be written")
    if free < NEEDED_BYTES:
        value += f"; a run of GPT-2 124M needs {NEEDED_BYTES / GIGABYTE:.0f} GB"
    return value, writable and free >= NEEDED_BYTES


def _caches() -> Line:
    from finetune.files import home

    hub = os.environ.get("HF_HUB_CACHE") or os.path.join(
        os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface", "hub"
    )
    lines = [f"{folder}{'' if Path(folder).is_dir() else ' (does not exist yet)'}" for folder in (hub, home())]
    return "\n".join(lines), None


def _variables() -> Line:
    # Values are not shown, since an address may contain a password.
    shown = [f"{name} {'set' if os.environ.get(name) else 'not set'}" for name in OURS]
    return ", ".join(shown + [f"{name} set" for name in OTHERS if os.environ.get(name)]), None


def _network() -> Line:
    from finetune.hub.fetch import network_available

    answers = network_available()
    return "the Hugging Face hub answers" if answers else "none: only local files are used", None


def _weights() -> Line:
    from finetune.checkpoints.fallback import MINI
    from finetune.files import damage
    from finetune.hub.assets import asset
    from finetune.hub.fetch import weights_status
    from finetune.hub.registry import weights_registry

    lines = [f"{row.name}: {weights_status(row)}" for row in weights_registry().values()]
    wrong = damage(asset("weights", MINI))
    return "\n".join([*lines, f"{MINI}: {wrong or 'bundled'}"]), False if wrong else None


def _forward_pass() -> Line:
    """Forward pass of a tiny random model: (2, 32) ids -> (2, 32, 257) logits, all finite."""
    import time

    import torch

    from finetune.models.gpt import GPT, GPTConfig
    from finetune.training.precision import device_type

    device = device_type()
    config = GPTConfig(vocab_size=257, context=32, width=32, layers=1, heads=2)
    model = GPT(config).initialise(0).to(device).eval()
    ids = torch.arange(64, device=device).reshape(2, 32)
    start = time.perf_counter()
    with torch.no_grad():
        logits = model(ids)
    finite = logits.shape == (2, 32, 257) and bool(torch.isfinite(logits).all())
    milliseconds = 1000 * (time.perf_counter() - start)
    return f"{'ok' if finite else 'not finite'} on {device}, {milliseconds:.0f} ms", finite


def _without_home(text: str) -> str:
    """Replace the home folder by ~, so that pasted output does not contain the user's name."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


CHECKS = (
    _finetune,
    _python,
    _system,
    _packages,
    _processor,
    _memory,
    _device,
    _precision,
    _disk,
    _caches,
    _variables,
    _network,
    _weights,
    _forward_pass,
)
