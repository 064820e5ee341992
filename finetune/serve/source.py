"""A seq2seq run behind the server: targets of sources in batches, and the attention of each target token."""

from dataclasses import dataclass
from typing import Any

import torch

from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.sampling import Decoding
from finetune.models.transformer import LanguageModel
from finetune.report.inputs import AttentionMap
from finetune.serve.worker import Work
from finetune.tasks.seq2seq.examples import writing_room
from finetune.tasks.seq2seq.export import SourceUse
from finetune.tasks.seq2seq.job import attention_of, decoding
from finetune.tasks.seq2seq.layout import Pair
from finetune.tasks.seq2seq.model import family_of
from finetune.tokenizer import Tokenizer

BATCH = 32  # sources at a time


@dataclass(frozen=True)
class Asked:
    """A source, and the decoding options for its target. beams: 1 is greedy."""

    source: str
    beams: int
    max_new_tokens: int


@dataclass(frozen=True)
class Target:
    """The generated target, and its attention to the source."""

    text: str
    attention: AttentionMap
    notes: list[str]


class SourceReader:
    """The model, and the work of the model's thread on it."""

    def __init__(self, model: LanguageModel | EncoderDecoder, tokenizer: Tokenizer, use: SourceUse):
        self.tokenizer, self.use = tokenizer, use
        self.family = family_of(model, tokenizer.end_of_text).eval()
        self.context = model.config.context
        self.write_work = Work(self._write, key=lambda own: (own.beams, own.max_new_tokens), most=BATCH)

    def ids(self, asked: Asked) -> tuple[list[int], list[str]]:
        """The tokens of a source that are read, and a note if it is truncated."""
        ids = self.tokenizer.encode(asked.source)
        room = writing_room(self.use.family, self.use.max_length, self.context, asked.max_new_tokens)
        cut = f"the source has {len(ids):,} tokens: only the first {room:,} are read"
        return ids[:room], [cut] if len(ids) > room else []

    def _write(self, batch: list[Asked]) -> list[Target]:
        device, first = self.family.body.token_embedding.weight.device, batch[0]
        sources = [self.ids(asked) for asked in batch]
        options: dict[str, Any] = vars(self._decoding(first.beams))
        rows = self.family.write([ids for ids, _ in sources], first.max_new_tokens, device, **options).tolist()
        found = []
        for (ids, notes), row in zip(sources, rows, strict=True):
            end = self.family.end
            target = row[: row.index(end)] if end in row else row
            read = attention_of(self.family, Pair(ids, target), self.tokenizer, torch.device(device))
            found.append(Target(self.tokenizer.decode(target), read, notes))
        return found

    def _decoding(self, beams: int) -> Decoding:
        return decoding(beams, self.use.length_penalty)
