"""A language model behind the server: streamed continuations, greedy ones in batches, and the next token."""

import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor

from finetune.models.sampling import Decoding, filter_logits
from finetune.models.text_stream import TextStream
from finetune.models.transformer import LanguageModel
from finetune.serve.problems import Problem
from finetune.serve.worker import Work, Worker
from finetune.tokenizer import Tokenizer

BATCH = 16  # maximum greedy continuations in a batch
LIKELIEST = 20  # tokens shown of a distribution

STOP, LENGTH = "stop", "length"  # the reasons why a text ended, in OpenAI's terms


@dataclass(eq=False)
class Writing:
    """A text to generate. write: called by the model's thread with each piece of it."""

    ids: list[int]
    max_new_tokens: int
    decoding: Decoding
    write: Callable[[str], None]
    stop: tuple[str, ...] = ()
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Written:
    """How a text ended."""

    tokens: int
    reason: str
    notes: list[str]


@dataclass(frozen=True)
class Likely:
    """A possible next token. chosen: its probability under the sampling settings, 0 if they exclude it."""

    token: str
    probability: float
    chosen: float


class _Enough(Exception):
    """Raised to stop generation when no one waits for more tokens."""


class Writer:
    """The model, and the work of the model's thread on it."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, worker: Worker):
        self.model, self.tokenizer, self.worker = model, tokenizer, worker
        self.write_work = Work(self._write, key=_together, most=BATCH)
        self.next_work = Work(self._next)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The tokens of a prompt, as ``finetune generate`` reads it."""
        return [self.tokenizer.end_of_text, *self.tokenizer.encode(prompt)]

    def _write(self, writings: list[Writing]) -> list[Written]:
        """Generate texts with equal settings in one batch."""
        from finetune.training.collate import padded

        end, first = self.tokenizer.end_of_text, writings[0]
        streams = [TextStream(self.tokenizer, own.stop) for own in writings]
        counts, reasons = [0] * len(writings), [""] * len(writings)
        notes: list[str] = []

        def take(tokens: Tensor) -> None:
            for row, token in enumerate(tokens.tolist()):
                if reasons[row]:
                    continue
                if writings[row].cancelled.is_set():
                    reasons[row] = STOP
                    continue
                counts[row] += 1
                if token == end:
                    reasons[row] = STOP
                    continue
                if new := streams[row].push(token):
                    writings[row].write(new)
                if streams[row].stopped:
                    reasons[row] = STOP
            if all(reasons) or self.worker.stopping.is_set():
                raise _Enough

        ids, mask = padded([own.ids for own in writings], end)
        device = self.model.token_embedding.weight.device
        with suppress(_Enough):
            self.model.generate(
                ids.to(device),
                first.max_new_tokens,
                mask=mask.to(device),
                end=end,
                note=notes.append,
                on_tokens=take,
                **vars(first.decoding),
            )
        if self.worker.stopping.is_set():
            raise Problem(503, "the server is closing")
        for own, stream in zip(writings, streams, strict=True):
            if rest := stream.close():
                own.write(rest)
        return [
            Written(count, reason or LENGTH, notes if len(own.ids) + count > self.model.config.context else [])
            for own, count, reason in zip(writings, counts, reasons, strict=True)
        ]

    def _next(self, asked: list[tuple[list[int], Decoding]]) -> list[list[Likely]]:
        return [self._distribution(ids, decoding) for ids, decoding in asked]

    @torch.inference_mode()
    def _distribution(self, ids: list[int], decoding: Decoding) -> list[Likely]:
        """The most likely next tokens, with their probabilities before and after the sampling settings are applied."""
        context = self.model.config.context
        read = torch.tensor([ids[-context:]], device=self.model.token_embedding.weight.device)
        logits = self.model.next_logits(read, self.model.new_cache(read.shape[1])).float()
        plain = logits.softmax(dim=-1)[0]
        shaped = decoding.process(logits, read)
        if decoding.temperature == 0:
            chosen = torch.nn.functional.one_hot(shaped.argmax(dim=-1), shaped.shape[1]).float()[0]
        else:
            filters = decoding.temperature or 1.0, decoding.top_k, decoding.top_p, decoding.min_p
            chosen = filter_logits(shaped, *filters).softmax(dim=-1)[0]
        found = plain.topk(min(LIKELIEST, len(plain)))
        return [
            Likely(self.tokenizer.label(token), p, float(chosen[token]))
            for p, token in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        ]


def _together(own: Writing) -> Hashable:
    """Greedy texts with equal settings share a batch; each sampled text has its own random generator."""
    if own.decoding.temperature == 0 and own.decoding.samples == 1:
        return own.max_new_tokens, own.decoding
    return id(own)
