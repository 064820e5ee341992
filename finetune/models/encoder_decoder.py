"""The encoder-decoder: a bidirectional encoder, and a causal decoder with cross-attention to its output.

Sources: Vaswani et al. 2017, arXiv:1706.03762 (the model, its vanilla shape, label smoothing in section 5.4); Rothe et
al. 2020, arXiv:1907.12461 (both sides initialised from a pretrained model: warm_start.py). Shape letters as in gpt.py;
S source tokens, T target tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import RecipeError
from finetune.models.cache import Source, SourceCache
from finetune.models.encoder import bidirectional_mask, positions_of, require_tied
from finetune.models.generate import generate
from finetune.models.gpt import draw_weights, summed_loss
from finetune.models.packed import PackedDecoder, packed_copy
from finetune.models.transformer import Block, Stack, TransformerConfig


@dataclass(frozen=True)
class EncoderDecoderConfig(TransformerConfig):
    """The shape of both sides; `layers` counts the decoder's."""

    encoder_layers: int | None = None  # None: as many as the decoder

    def __post_init__(self) -> None:
        super().__post_init__()
        require_tied(self)

    @property
    def encoder(self) -> "EncoderDecoderConfig":
        """The shape of the encoder."""
        return self if self.encoder_layers is None else replace(self, layers=self.encoder_layers, encoder_layers=None)


# torch.nn.Transformer's defaults, with a final norm on each side, which the paper does not have.
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
    """A sequence-to-sequence model; one matrix serves as token embedding of both sides and as output matrix."""

    kind = "an encoder-decoder"

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.encoder = Stack(config.encoder, tokens=False)
        self.decoder = Stack(config, tokens=False, cross=True)

    def initialise(self, seed: int, std: float = 0.02) -> Self:
        """Draw random weights by GPT-2's rule, as ``GPT.initialise``; no two tensors are alike."""
        draw_weights(self, self.config.layers, seed, std)
        return self

    @property
    def output(self) -> Tensor:
        """The output matrix (V, C)."""
        return self.token_embedding.weight

    def encode(self, source_ids: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """The encoder output, to which the decoder attends: (B, S) -> (B, S, C).

        source_mask: (B, S), true at tokens and false at padding on either side; None means no padding.
        """
        return self.encoder.run(self.token_embedding(source_ids), *bidirectional_mask(source_ids, source_mask))

    def hidden_states(
        self,
        source_ids: Tensor,
        target_ids: Tensor,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """The decoder's last hidden states under teacher forcing: (B, S), (B, T) -> (B, T, C).

        target_mask: (B, T), as source_mask; right-padded targets need none, because attention is causal.
        """
        sources = self.read(source_ids, source_mask)
        mask, positions = causal(target_ids, target_mask)
        return self.decoder.run(self.token_embedding(target_ids), mask, positions, sources=sources)

    def read(self, source_ids: Tensor, source_mask: Tensor | None = None) -> list[Source]:
        """Encode the sources and compute the cross-attention keys and values: a ``Source`` for each decoder block."""
        attention_mask = torch.ones_like(source_ids, dtype=torch.bool) if source_mask is None else source_mask
        encoded = self.encode(source_ids, attention_mask)
        blocks = cast(Iterable[Block], self.decoder.blocks)  # the type of all blocks
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
        return F.linear(hidden, self.output)

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
        smoothing: label smoothing, the probability mass spread over the whole vocabulary.
        """
        hidden = self.hidden_states(source_ids, target_ids, source_mask, target_mask)
        return summed_loss(hidden, self.output, targets, chunk, smoothing)

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
        """Generate targets that begin with `prompt`: (B, S), (B, T) -> (B * samples, T + new).

        prompt: the start token, (B, 1), or more. options: as for ``finetune.models.generate.generate``, for example
        temperature=0, or beams=4, length_penalty=1.0. Raises RecipeError if a source is empty.
        """
        if not source_ids.numel() or not (source_mask is None or source_mask.any(dim=1).all()):
            raise RecipeError("a source is empty", do="Leave it out, or give it at least one token.")
        rows = len(source_ids) * options.get("beams", 1) * options.get("samples", 1)
        packed = packed_copy(self, rows, max_new_tokens)
        decoder = DecoderWithSource(packed[0] if packed else self, source_ids, source_mask)
        return generate(PackedDecoder(decoder, packed[1]) if packed else decoder, prompt, max_new_tokens, **options)


class DecoderWithSource:
    """A decoder with its encoded sources; implements ``generate.Decoder``."""

    def __init__(self, model: EncoderDecoder, source_ids: Tensor, source_mask: Tensor | None = None):
        self.model, self.sources = model, model.read(source_ids, source_mask)

    def new_cache(self, room: int) -> SourceCache:
        """An empty cache, with the sources, for this many target positions, limited to the context length."""
        config = self.model.config
        return SourceCache(config.layers, min(room, config.context), self.sources)

    def extend(self, input_ids: Tensor, cache: SourceCache) -> Tensor:
        """Append target tokens to the cache: (B, T) -> the last one's hidden state, (B, C)."""
        return self.model.decoder.run_on(self.model.token_embedding(input_ids), cache, cache.sources)

    def next_logits(self, input_ids: Tensor, cache: SourceCache) -> Tensor:
        """Append target tokens to the cache: (B, T) -> logits of the next token, (B, V)."""
        return F.linear(self.extend(input_ids, cache), self.model.output)


def causal(input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """The causal mask that also hides padding, or None where plain causal attention is equivalent, and position ids.

    (B, T) -> (B, 1, T, T), (B, T). A padding token attends to itself: softmax over a fully masked row is NaN.
    """
    T, device = input_ids.shape[1], input_ids.device
    if attention_mask is None:
        return None, torch.arange(T, device=device)[None]
    column = torch.arange(T, device=device)
    before, itself = column <= column[:, None], column == column[:, None]  # (T, T)
    return (before & attention_mask[:, None, :] | itself)[:, None], positions_of(attention_mask)
