"""Autoregressive decoding for any decoder: greedy, sampling or beam search.

The loop calls only two methods of a model (``Decoder``), so it serves both a GPT and the decoder of an
encoder-decoder. Beam search is in beam_search.py. Shape letters as in gpt.py.
"""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from finetune.console import warn
from finetune.errors import RecipeError
from finetune.models.beam_search import beam_search, ended, filler
from finetune.models.cache import KVCache
from finetune.models.sampling import PAD, Decoding

MOST_NEW = 1_000_000  # tokens per continuation; memory for all of them is allocated at the start

C = TypeVar("C", bound=KVCache)


class Decoder(Protocol[C]):
    """What generation needs of a model: a GPT, a Transformer or an encoder_decoder.DecoderWithSource."""

    def new_cache(self, room: int) -> C:
        """An empty cache for this many positions, limited to the context length."""

    def next_logits(self, input_ids: Tensor, cache: C) -> Tensor:
        """Append tokens to the cache: (B, T) -> logits of the next token, (B, V)."""


@torch.inference_mode()
def generate(
    model: Decoder[C],
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    mask: Tensor | None = None,
    end: int | None = None,
    stop: Callable[[list[int]], bool] | None = None,
    on_tokens: Callable[[Tensor], None] | None = None,
    note: Callable[[str], None] = warn,
    **options: Any,
) -> Tensor:
    """Continue sequences: (B, T) -> (B * samples, T + new), samples of a prompt adjacent, best beam first.

    mask: (B, T), true at tokens, for prompts of unequal length; they may be padded on either side, and are returned
    left-padded. options: the fields of ``Decoding``.
    end: the end-of-sequence token. stop: called with the new tokens of a sequence; returns True to end it
    (``StopStrings``). Positions after an end hold `end`, or 0 without one; generation stops once all have ended.
    on_tokens: called with the tokens of each step (B * samples,), except under beam search.
    note: called once, with a message, if a text exceeds the context. The model then continues from the last tokens
    only: as many as leave room for the new ones, but at least half of the context, until it is full again.
    Raises RecipeError if an option is out of range.
    """
    decoding = Decoding(**options)
    if not 1 <= max_new_tokens <= MOST_NEW:
        raise RecipeError("max_new_tokens is out of range", got=str(max_new_tokens), known=f"1 to {MOST_NEW:,}")
    mask = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    if not (input_ids.numel() and mask.any(dim=1).all()):
        raise RecipeError("a prompt is empty", do="Begin it with the end-of-text token, for example.")
    order = mask.int().argsort(dim=1, stable=True)  # padding first
    prompt, attention_mask = input_ids.gather(1, order), mask.gather(1, order)
    text = Text(model, prompt.masked_fill(~attention_mask, PAD), max_new_tokens, note)
    if decoding.beams > 1:
        new = beam_search(text, decoding, end, stop)
    else:
        new = _sample(text, decoding, end, stop, on_tokens)
    return torch.cat([prompt.repeat_interleave(decoding.samples, dim=0), new], dim=1)


class Text(Generic[C]):
    """Growing sequences, and how much of them the model has processed."""

    def __init__(self, model: Decoder[C], prompt: Tensor, max_new_tokens: int, note: Callable[[str], None]):
        B, T = prompt.shape
        self.model, self.note = model, note
        self.cache = model.new_cache(T + max_new_tokens - 1)  # the last token is never fed back
        self.ids = torch.cat([prompt, prompt.new_full((B, max_new_tokens), PAD)], dim=1)
        self.prompt_length = self.length = T
        self.in_view = (prompt != PAD).sum(dim=1)  # (B,), last tokens of each sequence in the context
        self.most_in_view = int(self.in_view.max())

    def so_far(self) -> Tensor:
        """The sequences, padded with PAD: (B, T)."""
        return self.ids[:, : self.length]

    def select(self, rows: Tensor) -> None:
        """Select these sequences in this order, (B_new,); indices may repeat."""
        self.ids, self.in_view = self.ids[rows], self.in_view[rows]
        self.cache.select(rows)

    def append(self, tokens: Tensor) -> None:
        """Append one token to each sequence, (B,)."""
        self.ids[:, self.length] = tokens
        self.length, self.in_view, self.most_in_view = self.length + 1, self.in_view + 1, self.most_in_view + 1

    def next_logits(self) -> Tensor:
        """Feed the new tokens to the model: logits of the next token, (B, V) in fp32."""
        unread = 1
        if self.length == self.prompt_length or self.most_in_view > self.cache.room:
            unread = self._slide()
        ids = self.ids[:, self.length - unread : self.length].clamp(min=0)
        return self.model.next_logits(ids, self.cache).float()

    def _slide(self) -> int:
        """Reset the cache and truncate sequences that do not fit; returns the number of columns to feed.

        Each sequence is truncated by its own length, so a batch gives the same result as one sequence at a time.
        """
        room = self.cache.room
        if self.most_in_view > room:
            left = self.ids.shape[1] - self.length
            kept = room - min(left - 1, room // 2)
            self.note(
                f"{self.most_in_view:,} tokens are more than the context of {room:,}: "
                f"the model continues from the last {kept:,}"
            )
            self.note = lambda _: None
            self.in_view = self.in_view.masked_fill(self.in_view > room, kept)
            self.most_in_view = int(self.in_view.max())
        start = self.most_in_view - self.in_view
        self.cache.clear(start if start.any() else None)
        return self.most_in_view


def _sample(
    text: Text,
    decoding: Decoding,
    end: int | None,
    stop: Callable[[list[int]], bool] | None,
    on_tokens: Callable[[Tensor], None] | None,
) -> Tensor:
    """Sample tokens, or take the most likely: (B * samples, new)."""
    generator = torch.Generator(device=text.ids.device).manual_seed(decoding.seed)
    logits = text.next_logits()
    if decoding.samples > 1:
        rows = torch.arange(len(logits), device=logits.device).repeat_interleave(decoding.samples)
        text.select(rows)
        logits = logits[rows]
    closed = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    while True:
        tokens = decoding.choose(logits, text.so_far(), generator).masked_fill(closed, filler(end))
        text.append(tokens)
        if on_tokens is not None:
            on_tokens(tokens)
        new = text.so_far()[:, text.prompt_length :]
        closed |= ended(new, end, stop)
        if text.length == text.ids.shape[1] or closed.all():
            return new
        logits = text.next_logits()
