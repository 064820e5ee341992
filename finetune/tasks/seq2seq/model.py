"""Two model families: one GPT that reads source and target as one sequence, or an encoder-decoder.

Both modules return the loss from their forward pass, so that model wrappers work, and share one interface for the task.
The end-of-text token separates source and target, ends the target, and is an encoder-decoder's first decoder input.
Shape letters as in encoder_decoder.py.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import IGNORE, summed_loss
from finetune.models.transformer import LanguageModel
from finetune.tasks.seq2seq.layout import Pair, one_sequence, two_sequences
from finetune.training.collate import padded

CHUNK = 256  # supervised positions whose logits exist at a time


class Family(nn.Module):
    """The base of both families; a subclass defines the layout of a batch and its hidden states.

    end: the id of the end-of-text token. smoothing: label smoothing in training (Szegedy et al. 2016,
    arXiv:1512.00567, section 7).
    """

    body: LanguageModel | EncoderDecoder
    end: int
    smoothing: float

    @property
    def pads(self) -> tuple[int, ...]:
        """The value that pads each tensor of a batch."""
        raise NotImplementedError

    def batch(self, pairs: list[Pair], whole: bool = False) -> tuple[Tensor, ...]:
        """The arguments of ``forward``, the targets (B, T) last, which are IGNORE at unsupervised positions.

        whole: also supervise the source, if a decoder reads it.
        """
        raise NotImplementedError

    def hidden_states(self, *batch: Tensor) -> Tensor:
        """Hidden states that predict each target token: a batch without its targets -> (B, T, C)."""
        raise NotImplementedError

    def write(self, sources: list[list[int]], max_new_tokens: int, device: torch.device, **options: Any) -> Tensor:
        """Generate targets for sources, as ids (B, T). options: those of ``finetune.models.generate.generate``."""
        raise NotImplementedError

    def forward(self, *batch: Tensor) -> Tensor:
        """Cross-entropy summed over the supervised positions, with label smoothing only in training."""
        *inputs, targets = batch
        smoothing = self.smoothing if self.training else 0.0
        return summed_loss(self.hidden_states(*inputs), self.body.output, targets, CHUNK, smoothing)

    @torch.no_grad()
    def teacher_forced(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher-forced evaluation of each pair: cross-entropy in nats, and correctly predicted tokens; (B,) each."""
        *inputs, targets = batch
        hidden, supervised = self.hidden_states(*inputs), targets != IGNORE
        owner = supervised.nonzero()[:, 0]  # (N,), the row of each token
        nats, right = hidden.new_zeros(len(targets)), hidden.new_zeros(len(targets))
        parts = (hidden[supervised], targets[supervised], owner)
        for states, wanted, own in zip(*(part.split(CHUNK) for part in parts), strict=True):
            logits = F.linear(states, self.body.output).float()
            nats.index_add_(0, own, F.cross_entropy(logits, wanted, reduction="none"))
            right.index_add_(0, own, (logits.argmax(dim=-1) == wanted).to(right))
        return nats, right


class SourceThenTarget(Family):
    """The family ``decoder``: one decoder reads source, end-of-text, target, end-of-text; the source is not in the loss."""

    body: LanguageModel

    def __init__(self, body: LanguageModel, end: int, smoothing: float = 0.0):
        super().__init__()
        self.body, self.end, self.smoothing = body, end, smoothing

    def batch(self, pairs: list[Pair], whole: bool = False) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T), padded on the right. Padding is never a target, and causal attention never reads it."""
        return one_sequence(pairs, self.end, IGNORE, whole)

    @property
    def pads(self) -> tuple[int, ...]:
        """Of inputs and targets."""
        return self.end, IGNORE

    def hidden_states(self, input_ids: Tensor) -> Tensor:  # type: ignore[override]  # its own batch's parts
        """(B, T) -> (B, T, C)."""
        return self.body.hidden_states(input_ids)

    def write(self, sources: list[list[int]], max_new_tokens: int, device: torch.device, **options: Any) -> Tensor:
        """The decoder's continuation of each source and separator: (B, T)."""
        ids, attention_mask = (
            tensor.to(device) for tensor in padded([[*source, self.end] for source in sources], self.end)
        )
        found = self.body.generate(ids, max_new_tokens, mask=attention_mask, end=self.end, **options)
        return found[:, ids.shape[1] :]


class SourceToTarget(Family):
    """The family ``encoder-decoder``: a bidirectional encoder, and a decoder that starts with the end-of-text token."""

    body: EncoderDecoder

    def __init__(self, body: EncoderDecoder, end: int, smoothing: float = 0.0):
        super().__init__()
        self.body, self.end, self.smoothing = body, end, smoothing

    def batch(self, pairs: list[Pair], whole: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Source ids (B, S), source attention mask (B, S), decoder input ids (B, T) and targets (B, T)."""
        source_ids, target_ids, targets, source_mask = two_sequences(pairs, self.end, IGNORE)
        return source_ids, source_mask, target_ids, targets

    @property
    def pads(self) -> tuple[int, ...]:
        """Of source ids, source mask, decoder input ids and targets."""
        return self.end, 0, self.end, IGNORE

    def hidden_states(  # type: ignore[override]  # its own batch's parts
        self, source_ids: Tensor, source_mask: Tensor, target_ids: Tensor
    ) -> Tensor:
        """(B, S), (B, S), (B, T) -> (B, T, C)."""
        return self.body.hidden_states(source_ids, target_ids, source_mask)

    def write(self, sources: list[list[int]], max_new_tokens: int, device: torch.device, **options: Any) -> Tensor:
        """The decoder's output for each source: (B, T)."""
        source_ids, source_mask = (tensor.to(device) for tensor in padded(sources, self.end))
        start = torch.full((len(sources), 1), self.end, device=device)
        return self.body.generate(source_ids, start, max_new_tokens, source_mask=source_mask, end=self.end, **options)[
            :, 1:
        ]


AnyFamily = SourceThenTarget | SourceToTarget


def family_of(model: LanguageModel | EncoderDecoder, end: int, smoothing: float = 0.0) -> AnyFamily:
    """The family module for a model."""
    if isinstance(model, EncoderDecoder):
        return SourceToTarget(model, end, smoothing)
    return SourceThenTarget(model, end, smoothing)
