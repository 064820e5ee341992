"""The encoder-decoder: one stack reads the source both ways, another writes the target and looks at what was read.

Sources: Vaswani et al. 2017, arXiv:1706.03762 (the model, its vanilla shape, label smoothing in section 5.4); Rothe et
al. 2020, arXiv:1907.12461 (both sides begun from a pretrained model: warm_start.py). Shape letters as in gpt.py;
S source tokens, T target tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import RecipeError
from finetune.models.cache import Source, SourceCache
from finetune.models.encoder import bidirectional_mask, positions_of, require_tied
from finetune.models.generate import generate
from finetune.models.gpt import GPT, summed_loss
from finetune.models.heads import Classifier
from finetune.models.packed import for_generation
from finetune.models.variants import Block, Stack, VariantConfig


@dataclass(frozen=True)
class EncoderDecoderConfig(VariantConfig):
    """The shape of both sides; `layers` are the decoder's."""

    encoder_layers: int | None = None  # none: as many as the decoder has

    def __post_init__(self) -> None:
        super().__post_init__()
        require_tied(self)

    @property
    def encoder(self) -> "EncoderDecoderConfig":
        """The shape of the encoder."""
        return self if self.encoder_layers is None else replace(self, layers=self.encoder_layers, encoder_layers=None)


# torch.nn.Transformer as it comes, with its norm after each side's last block, which the paper has not.
VANILLA = EncoderDecoderConfig(
    vocab_size=5000,
    context=512,
    width=512,
    layers=6,
    heads=8,
    dropout=0.1,
    positions="sinusoidal",
    activation="relu",
    norm="post",
    last_norm=True,
)


class EncoderDecoder(nn.Module):
    """A sequence-to-sequence model; one matrix is both sides' token embedding and the output."""

    kind = "an encoder-decoder"

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.encoder = Stack(config.encoder, tokens=False)
        self.decoder = Stack(config, tokens=False, cross=True)
        self.packed_output: nn.Module | None = None  # set in the copies that generate

    initialise = GPT.initialise  # the same rule, by the same names

    def encode(self, source_ids: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """What the decoder looks at: (B, S) -> (B, S, C).

        source_mask: (B, S), true where there is a token and false at pads, on whichever side; none means no pads.
        """
        return self.encoder.run(self.token_embedding(source_ids), *bidirectional_mask(source_ids, source_mask))

    def hidden_states(
        self,
        source_ids: Tensor,
        target_ids: Tensor,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """The decoder's last hidden states, every target token given: (B, S), (B, T) -> (B, T, C).

        target_mask: (B, T), as source_mask; a target that is padded on the right needs none, being causal.
        """
        sources = self.read(source_ids, source_mask)
        mask, positions = causal(target_ids, target_mask)
        return self.decoder.run(self.token_embedding(target_ids), mask, positions, sources=sources)

    def read(self, source_ids: Tensor, source_mask: Tensor | None = None) -> list[Source]:
        """The encoder's work and the cross-attention's keys and values: a ``Source`` for each decoder block."""
        attention_mask = torch.ones_like(source_ids, dtype=torch.bool) if source_mask is None else source_mask
        encoded = self.encode(source_ids, attention_mask)
        blocks = cast(Iterable[Block], self.decoder.blocks)  # all its blocks' type
        return [block.cross_attention.read(encoded, attention_mask) for block in blocks]

    def forward(
        self,
        source_ids: Tensor,
        target_ids: Tensor,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """Logits of the next target token: (B, S), (B, T) -> (B, T, V)."""
        hidden = self.hidden_states(source_ids, target_ids, source_mask, target_mask)
        return F.linear(hidden, self.token_embedding.weight)

    def loss_sum(
        self,
        source_ids: Tensor,
        target_ids: Tensor,
        targets: Tensor,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        smoothing: float = 0.0,
        chunk: int = 256,
    ) -> Tensor:
        """Cross entropy summed over the supervised positions; divide by their number for the mean.

        target_ids, targets: (B, T); targets[b, t] is the token that should follow target_ids[b, t], or gpt.IGNORE.
        smoothing: the share of the answer that is spread over the whole vocabulary.
        """
        hidden = self.hidden_states(source_ids, target_ids, source_mask, target_mask)
        return summed_loss(hidden, self.token_embedding.weight, targets, chunk, smoothing)

    @torch.inference_mode()
    def generate(
        self,
        source_ids: Tensor,
        prompt: Tensor,
        max_new_tokens: int,
        *,
        source_mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Write targets that begin as `prompt`: (B, S), (B, T) -> (B * samples, T + new).

        prompt: the start token, (B, 1), or more. options: as ``finetune.models.generate.generate`` says; for example
        temperature=0, or beams=4, length_penalty=1.0. Raises RecipeError where a source is empty.
        """
        if not source_ids.numel() or not (source_mask is None or source_mask.any(dim=1).all()):
            raise RecipeError("a source is empty", do="Leave it out, or give it at least one token.")
        rows = len(source_ids) * options.get("beams", 1) * options.get("samples", 1)
        model = for_generation(self, rows, max_new_tokens)
        return generate(DecoderWithSource(model, source_ids, source_mask), prompt, max_new_tokens, **options)


class EncoderDecoderClassifier(nn.Module):
    """A linear head, without bias, on the decoder's hidden state at the start token: the text is the source."""

    def __init__(self, model: EncoderDecoder, classes: int, start: int):
        super().__init__()
        self.model, self.start = model, start
        self.head = nn.Linear(model.config.width, classes, bias=False)

    initialise_head = Classifier.initialise_head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Class logits: (B, T), real as ``EncoderDecoder.encode`` -> (B, K)."""
        start = torch.full_like(input_ids[:, :1], self.start)
        return self.head(self.model.hidden_states(input_ids, start, attention_mask)[:, 0])


class DecoderWithSource:
    """A decoder at its sources: what ``generate`` has to know of a model, ``generate.Decoder``."""

    def __init__(self, model: EncoderDecoder, source_ids: Tensor, source_mask: Tensor | None = None):
        self.model, self.sources = model, model.read(source_ids, source_mask)

    def new_cache(self, room: int) -> SourceCache:
        """An empty cache for so many target positions, or for the context if that is shorter, at the sources."""
        config = self.model.config
        return SourceCache(config.layers, min(room, config.context), self.sources)

    def next_logits(self, input_ids: Tensor, cache: SourceCache) -> Tensor:
        """Read target tokens that follow those in the cache: (B, T) -> logits of what comes next, (B, V)."""
        model = self.model
        x = model.decoder.run_on(model.token_embedding(input_ids), cache, cache.sources)
        return F.linear(x, model.token_embedding.weight) if model.packed_output is None else model.packed_output(x)


def causal(input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """The mask under which a token sees the real ones before it and itself, none where causal says it, and positions.

    (B, T) -> (B, 1, T, T), (B, T). A pad sees itself, since a row that sees nothing has no softmax.
    """
    T, device = input_ids.shape[1], input_ids.device
    if attention_mask is None:
        return None, torch.arange(T, device=device)[None]
    column = torch.arange(T, device=device)
    before, itself = column <= column[:, None], column == column[:, None]  # (T, T)
    return (before & attention_mask[:, None, :] | itself)[:, None], positions_of(attention_mask)
