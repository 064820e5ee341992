"""The bundled model and data that exercises are checked with."""

from functools import cache

import torch
from torch import Tensor

from finetune.checkpoints.fallback import MINI
from finetune.checkpoints.sources import locate_weights
from finetune.commands.learn.forward import Forward, continued
from finetune.hub.assets import asset
from finetune.models.gpt import GPT
from finetune.tokenizer import Tokenizer

PROMPT = "The river is the largest in the"
TEXTS = (
    "The history of the town begins with a small church by the river.",
    "She said that the ship would leave in the morning.",
    "In the winter of 1912 the water was too cold, and 3 of the 40 men turned back.",
)


@cache
def mini() -> tuple[GPT, Tokenizer]:
    """The bundled GPT-2, in eval mode and fp32, and its tokenizer."""
    loaded = locate_weights(MINI).load()
    assert isinstance(loaded.model, GPT), "mini is a GPT-2"
    return loaded.model.eval().requires_grad_(False), loaded.tokenizer


def ids_of(text: str) -> list[int]:
    """The tokens of a text, the end-of-text token first, as in ``generate``."""
    _, tokenizer = mini()
    return [tokenizer.end_of_text, *tokenizer.encode(text)]


def row_of(text: str) -> Tensor:
    """The tokens of a text as a batch of one: (1, T)."""
    return torch.tensor([ids_of(text)])


def continuation(forward: Forward | None = None) -> str:
    """The continuation of the prompt by a learner's forward pass, or by mini's own if there is none."""
    gpt, tokenizer = mini()
    return continued(forward or gpt, tokenizer, ids_of(PROMPT))


def spam_sample() -> list[tuple[str, str]]:
    """(label, text) of the bundled messages."""
    lines = (asset("data", "spam") / "sample.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return [(row[0], row[1]) for row in rows]
