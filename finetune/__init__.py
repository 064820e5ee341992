"""Adapt GPT-2 to your own text. ``import finetune`` is cheap: torch is imported when something needs it."""

from importlib import import_module

__version__ = "0.1.0"

LAZY = {"load": ("finetune.checkpoints.sources", "load"),
        "TextClassifier": ("finetune.estimator", "TextClassifier"),
        "classify": ("finetune.api", "classify"), "predict": ("finetune.api", "predict")}


def __getattr__(name: str):
    if name not in LAZY:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    module, attribute = LAZY[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *LAZY])
