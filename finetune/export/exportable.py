"""What a task passes to an export format, and the result of the export."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from finetune.console import clean
from finetune.errors import RunError, WeightsError
from finetune.export.card import Card, front_matter
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
class Conversation:
    """Messages, and the token ids of the prompt for the answer to the last of them."""

    messages: list[dict[str, str]]
    prompt: list[int]


@dataclass(frozen=True)
class Exportable:
    """A trained model with everything that a format may write. Formats distinguish models by their class."""

    name: str  # of the run, or of the directory
    model: Body | Classifier
    tokenizer: Tokenizer
    readme: Callable[[Exported], str]  # the README in Hugging Face's layout
    config: dict[str, Any] = field(default_factory=dict)  # additional keys of config.json
    files: dict[str, str] = field(default_factory=dict)  # additional files: name -> text
    labels: list[str] = field(default_factory=list)  # of a classifier
    texts: list[str] = field(default_factory=list)  # texts for comparing a classifier
    logits: np.ndarray | None = None  # (n, K) our logits on the texts in fp32, if known
    targets: np.ndarray | None = None  # (n,) indices of labels; with many labels (n, K), whether each applies
    max_length: int = 0  # in tokens; longer texts are truncated
    layout: Callable[[Path], Exported] | None = None  # writes and compares a task's own head with the GPT below it
    card: Card | None = None
    tokenizer_settings: dict[str, Any] = field(default_factory=dict)  # keys of tokenizer_config.json, as chat_template
    generation: dict[str, Any] = field(default_factory=dict)  # keys of generation_config.json
    stop: list[str] = field(default_factory=list)  # strings that end an answer, besides the end-of-text token
    ollama_template: str = ""  # the prompt in Go's template language
    conversations: list[Conversation] = field(default_factory=list)  # for comparing a chat template
    # of a language model: rows of token ids, each with the target at every position, IGNORE where there is no loss
    held_out: Callable[[], Iterator[tuple[list[int], list[int]]]] | None = None


@contextmanager
def draft_of(directory: Path) -> Iterator[Path]:
    """A temporary folder that gets a manifest and replaces the directory if the block ends without an error.

    Raises WeightsError if the disk is full or the folder cannot be written; the earlier directory is then kept.
    """
    draft = temporary_path(directory)
    shutil.rmtree(draft, ignore_errors=True)
    try:
        yield draft
        write_manifest(draft)
        replace_directory(directory, draft)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"cannot write {directory}",
            got=getattr(error, "strerror", None) or str(error),
            do="Free some space, or choose a directory that can be written.",
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def refuse_own_head(thing: Exportable, layout: str) -> None:
    """Raise RunError for a model with a task's own head, which only Hugging Face's layout supports."""
    if thing.layout is not None:
        raise RunError(
            f"{thing.name}: has a head of its own, which {layout} does not support",
            known="a classifier, a language model",
            do="Export it with --format hf, which includes its head and merges any adapters.",
        )


def write_readme(
    directory: Path, thing: Exportable, text: str, library: str = "transformers", relation: str = "finetune"
) -> None:
    """Write README.md: the hub's YAML, then the text, without control characters."""
    whole = front_matter(thing.card, thing.name, library, relation) + text
    (directory / "README.md").write_text(clean(whole), encoding="utf-8", newline="\n")


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
