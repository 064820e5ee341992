"""Everything that xray shows about one model on one text.

The logit lens treats the residual stream after every layer as if the layer were the last: it applies the final norm and
the output matrix (nostalgebraist 2020, "interpreting GPT: the logit lens"), or for a classifier its own head.
Shape letters as in gpt.py; L layers.
"""

import base64
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import RecipeError
from finetune.models.plain_attention import attention_maps
from finetune.models.transformer import LanguageModel
from finetune.records import Record
from finetune.tasks.classify.bundle import Bundle
from finetune.tokenizer import Tokenizer, split_pieces

MOST_TOKENS = 128  # in a text, so that its attention maps fit the page
LIKELIEST = 3  # tokens in a cell of the lens
DIGITS = 65535  # steps between 0 and 1 of a stored attention weight


@dataclass(frozen=True)
class Token(Record):
    """A token of the text."""

    id: int
    text: str
    bytes: str  # in hexadecimal


@dataclass(frozen=True)
class Merged(Record):
    """A piece of the text, and its parts after each merge, starting with its bytes."""

    text: str
    steps: list[list[str]]


@dataclass(frozen=True)
class Guess(Record):
    """A layer's prediction after a token: the most likely tokens, and the probability of the actual next token."""

    tokens: list[str]
    probabilities: list[float]
    next: float | None  # None: after the last token


@dataclass(frozen=True)
class Look(Record):
    """A model on a text. Layer 0 is the embedding; the last layer is the model's output.

    surprise: bits of each token given those before it; None for the first token if nothing precedes it.
    lens: [layer][token]. labels: [layer][label], a classifier's probabilities at each layer.
    attention: (L, H, T, T) as base64 of 16-bit integers, DIGITS for a weight of 1.
    """

    name: str
    tokens: list[Token]
    surprise: list[float | None]
    lens: list[list[Guess]]
    labels: list[list[float]] | None
    layers: int
    heads: int
    attention: str


def merges_of(tokenizer: Tokenizer, text: str) -> list[Merged]:
    """The merges that turn the text into tokens."""
    return [
        Merged(piece, [list(map(_readable, step)) for step in tokenizer.merge_steps(piece)])
        for piece in split_pieces(text)
    ]


@torch.inference_mode()
def look_at(name: str, body: LanguageModel, tokenizer: Tokenizer, text: str, bundle: Bundle | None = None) -> Look:
    """Run the model once. bundle: its classifier, if it is the body of one; no token then precedes the text."""
    ids = read_ids(tokenizer, text, body.config.context, bundle)
    batch = torch.tensor([ids])
    states = residual_stream(body, batch)  # (L + 1, T, C), after the final norm
    logits = F.linear(states, body.output).float()  # (L + 1, T, V)
    log_p = logits.log_softmax(dim=-1)
    labels = None
    if bundle is not None:
        read = F.linear(states[:, -1], bundle.model.head.weight).float().numpy()  # (L + 1, K)
        labels = bundle.probabilities(read).tolist()
    [maps] = attention_maps(body, batch).values()  # (L, 1, H, T, T)
    first: list[float | None] = [None]
    return Look(
        name,
        [Token(token, tokenizer.label(token), tokenizer.decode_bytes([token]).hex(" ")) for token in ids],
        first + [-float(log_p[-1, at - 1, token]) / math.log(2) for at, token in enumerate(ids) if at],
        [[_guess(layer[at], tokenizer, ids[at + 1 :]) for at in range(len(ids))] for layer in log_p],
        labels,
        maps.shape[0],
        maps.shape[2],
        _packed(maps[:, 0]),
    )


def read_ids(tokenizer: Tokenizer, text: str, context: int, bundle: Bundle | None) -> list[int]:
    """The tokens that the model reads. Raises RecipeError for a text that is empty or too long."""
    if not text.strip():
        raise RecipeError("the text is empty", got=repr(text), do='For example: --text "The river"')
    ids = tokenizer.encode(bundle.folded(text)) if bundle else [tokenizer.end_of_text, *tokenizer.encode(text)]
    most = min(MOST_TOKENS, context, bundle.max_length if bundle else context)
    if len(ids) > most:
        raise RecipeError(
            "the text is too long for one page", got=f"{len(ids)} tokens", known=f"{most} at most", do="Shorten it."
        )
    return ids


def residual_stream(body: LanguageModel, ids: Tensor) -> Tensor:
    """The embedding and the output of every block, each after the final norm: (1, T) -> (L + 1, T, C)."""
    seen: list[Tensor] = []

    def keep_first(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not seen:
            seen.append(inputs[0])

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)

    blocks = list(dict.fromkeys(body.blocks))  # shared blocks are one module
    hooks = [blocks[0].register_forward_pre_hook(keep_first), *(block.register_forward_hook(keep) for block in blocks)]
    try:
        body.hidden_states(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([body.norm(state[0]) for state in seen])


def unpacked(look: Look) -> np.ndarray:
    """The attention weights (L, H, T, T) of a record."""
    T = len(look.tokens)
    flat = np.frombuffer(base64.b64decode(look.attention), dtype="<u2")
    return flat.reshape(look.layers, look.heads, T, T) / DIGITS


def _packed(maps: Tensor) -> str:
    return base64.b64encode((maps.numpy() * DIGITS).round().astype("<u2").tobytes()).decode()


def _guess(log_p: Tensor, tokenizer: Tokenizer, rest: list[int]) -> Guess:
    best = log_p.topk(min(LIKELIEST, len(log_p)))
    return Guess(
        [tokenizer.label(token) for token in best.indices.tolist()],
        [_rounded(math.exp(value)) for value in best.values.tolist()],
        _rounded(math.exp(float(log_p[rest[0]]))) if rest else None,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _readable(part: bytes) -> str:
    try:
        return part.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in part)
