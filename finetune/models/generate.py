"""Autoregressive decoding for any decoder: greedy, sampling or beam search.

The loop calls only two methods of a model (``Decoder``), so it serves both a GPT and the decoder of an
encoder-decoder. Beam search and its length penalty follow transformers: a finished sequence scores
log probability / length ** length_penalty (not Wu et al. 2016, arXiv:1609.08144, eq. 14). A prompt is done once no
open beam, at its current length, scores better than the worst of `beams` finished sequences.
Shape letters as in gpt.py; K beams.
"""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from finetune.console import warn
from finetune.errors import RecipeError
from finetune.models.cache import KVCache
from finetune.models.sampling import PAD, Decoding

NEVER = -1e9  # the score of an unused beam
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
        new = _beam_search(text, decoding, end, stop)
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
    ended = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    while True:
        tokens = decoding.choose(logits, text.so_far(), generator).masked_fill(ended, _filler(end))
        text.append(tokens)
        if on_tokens is not None:
            on_tokens(tokens)
        new = text.so_far()[:, text.prompt_length :]
        ended |= _ends(new, end, stop)
        if text.length == text.ids.shape[1] or ended.all():
            return new
        logits = text.next_logits()


def _beam_search(text: Text, decoding: Decoding, end: int | None, stop: Callable[[list[int]], bool] | None) -> Tensor:
    """Beam search with K beams; the best finished sequences: (B * samples, new)."""
    logits = text.next_logits()
    (B, V), K, device = logits.shape, decoding.beams, logits.device
    rows = torch.arange(B, device=device).repeat_interleave(K)
    text.select(rows)
    logits, offset = logits[rows], torch.arange(0, B * K, K, device=device)[:, None]
    scores = torch.full((B, K), NEVER, device=device)  # log probability of the open beams
    scores[:, 0] = 0  # all beams start from one
    done_scores = torch.full((B, K), NEVER, device=device)
    room = text.ids.shape[1] - text.prompt_length
    done = torch.full((B, K, room), PAD, dtype=torch.long, device=device)
    open_prompts = torch.ones(B, 1, dtype=torch.bool, device=device)
    for length in range(1, room + 1):
        steps = decoding.process(logits.log_softmax(dim=-1), text.so_far()).view(B, K, V)
        best, index = (scores[:, :, None] + steps).flatten(1).topk(2 * K)  # (B, 2K): enough if K of them end
        parents, tokens = index // V + offset, index % V
        grown = torch.cat([text.so_far()[parents][:, :, text.prompt_length :], tokens[:, :, None]], dim=2)
        ends = _ends(grown.flatten(0, 1), end, stop).view(B, 2 * K) | (length == room)

        closing = ends & open_prompts & (torch.arange(2 * K, device=device) < K)  # among the best K only
        candidates = torch.cat([done_scores, (best / length**decoding.length_penalty).where(closing, NEVER)], dim=1)
        done_scores, kept = candidates.topk(K)
        padded = torch.nn.functional.pad(grown, (0, room - length), value=PAD)
        done = torch.cat([done, padded], dim=1).take_along_dim(kept[:, :, None], dim=1)

        scores, kept = (best + NEVER * ends).topk(K)
        open_prompts &= scores[:, :1] / length**decoding.length_penalty > done_scores[:, -1:]
        if length == room or not open_prompts.any():
            break
        text.select(parents.take_along_dim(kept, dim=1).flatten())
        text.append(tokens.take_along_dim(kept, dim=1).flatten())
        logits = text.next_logits()
    done = done[:, : decoding.samples].flatten(0, 1)
    longest = int((done != PAD).sum(dim=1).max())
    return done[:, :longest].masked_fill(done[:, :longest] == PAD, _filler(end))


def _ends(new: Tensor, end: int | None, stop: Callable[[list[int]], bool] | None) -> Tensor:
    """Which sequences the latest token ends, (B, T) -> (B,)."""
    ended = torch.zeros(len(new), dtype=torch.bool, device=new.device)
    if end is not None:
        ended |= new[:, -1] == end
    if stop is not None:
        ended |= torch.tensor([stop(ids) for ids in new.tolist()], device=new.device)
    return ended


def _filler(end: int | None) -> int:
    return 0 if end is None else end
