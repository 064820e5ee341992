"""Adapt GPT-2 to your own text. ``import finetune`` is cheap: torch is imported when something needs it."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what LAZY loads, for editors and type checkers
    from finetune.api import classify, predict
    from finetune.checkpoints.sources import load
    from finetune.estimator import TextClassifier

__all__ = ["TextClassifier", "__version__", "classify", "load", "predict"]
__version__ = "0.1.0"

LAZY = {
    "load": ("finetune.checkpoints.sources", "load"),
    "TextClassifier": ("finetune.estimator", "TextClassifier"),
    "classify": ("finetune.api", "classify"),
    "predict": ("finetune.api", "predict"),
}


if not TYPE_CHECKING:  # to a type checker it would say that there is every name

    def __getattr__(name: str) -> object:
        if name not in LAZY:
            raise AttributeError(f"module 'finetune' has no attribute {name!r}")
        module, attribute = LAZY[name]
        return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *LAZY])
