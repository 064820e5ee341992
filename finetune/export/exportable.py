"""What a task passes to an export format, and the result of the export."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from finetune.errors import WeightsError
from finetune.files import replace_directory, temporary_path, write_manifest
from finetune.models.bodies import Body
from finetune.models.gpt import GPTConfig
from finetune.models.heads import Classifier
from finetune.records import Record
from finetune.tokenizer import Tokenizer

TOLERANCE = 1e-4  # largest allowed difference between two logits, fp32


@dataclass(frozen=True)
class Exported(Record):
    """Whether the export was loaded in another library and compared with our model, and the result."""

    compared: bool
    summary: str
    max_logit_difference: float | None = None
    texts: int | None = None
    same_labels: int | None = None


@dataclass(frozen=True)
class Exportable:
    """A trained model with everything that a format may write. Formats decide by the model's class."""

    name: str  # of the run, or of the directory
    model: Body | Classifier
    tokenizer: Tokenizer
    readme: Callable[[Exported], str]  # the README in Hugging Face's layout
    config: dict[str, Any] = field(default_factory=dict)  # additional keys of config.json
    files: dict[str, str] = field(default_factory=dict)  # additional files: name -> text
    labels: list[str] = field(default_factory=list)  # of a classifier
    texts: list[str] = field(default_factory=list)  # texts for comparing a classifier
    max_length: int = 0  # in tokens; longer texts are truncated
    layout: Callable[[Path], Exported] | None = None  # writes and compares a task's own head with the GPT below it


@contextmanager
def draft_of(directory: Path) -> Iterator[Path]:
    """A temporary folder that gets a manifest and replaces the directory if the block ends without an error."""
    draft = temporary_path(directory)
    try:
        yield draft
        write_manifest(draft)
        replace_directory(directory, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def refuse(program: str, got: str) -> WeightsError:
    """The error for an export that another library reads differently."""
    return WeightsError(
        f"{program} reads the export differently",
        got=got,
        do=f"This is a bug of ours or of this version of {program}; please report it.",
    )


def random_ids(config: GPTConfig) -> torch.Tensor:
    """Two rows of token ids, always the same: (2, T)."""
    size = (2, min(config.context, 128))
    return torch.randint(0, config.vocab_size, size, generator=torch.Generator().manual_seed(0))
