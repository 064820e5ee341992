"""From source to target in two ways: one GPT that reads both in a row, or an encoder-decoder.

Both modules give the loss as their forward pass, so that every wrapper around a model works, and share the few things
that a task asks of them. Between source and target, at the target's end, and as an encoder-decoder's first target token
stands the end-of-text token. Shape letters as in encoder_decoder.py; a pair is (source ids, target ids).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.datasets.collate import pad_ids
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT, IGNORE, summed_loss

Pair = tuple[list[int], list[int]]
CHUNK = 256  # supervised positions whose logits exist at a time


class Seq2Seq(nn.Module):
    """What both families share; a subclass says how a batch is laid out and what its hidden states are.

    end: the id of the end-of-text token. smoothing: the share of the answer that is spread over the whole vocabulary in
    training (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    """

    end: int
    smoothing: float

    def batch(self, pairs: list[Pair]) -> tuple[Tensor, ...]:
        """What ``forward`` takes, the targets (B, T) last: IGNORE where nothing is supervised."""
        raise NotImplementedError

    def hidden_states(self, *batch: Tensor) -> Tensor:
        """The states from which each target token is told: a batch without its targets -> (B, T, C)."""
        raise NotImplementedError

    @property
    def output(self) -> Tensor:
        """The output matrix (V, C)."""
        raise NotImplementedError

    def write(self, sources: list[list[int]], max_new_tokens: int, device: torch.device, **options) -> Tensor:
        """Targets for sources, as ids (B, T), by the options of ``finetune.models.generate.generate``."""
        raise NotImplementedError

    def forward(self, *batch: Tensor) -> Tensor:
        """Cross entropy summed over the supervised positions; smoothed in training only."""
        *inputs, targets = batch
        smoothing = self.smoothing if self.training else 0.0
        return summed_loss(self.hidden_states(*inputs), self.output, targets, CHUNK, smoothing)

    @torch.no_grad()
    def told(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Of each pair, teacher forced: cross entropy in nats, and how many of its tokens were the likeliest; (B,)."""
        *inputs, targets = batch
        hidden, supervised = self.hidden_states(*inputs), targets != IGNORE
        owner = supervised.nonzero()[:, 0]  # (N,), whose token it is
        nats, right = hidden.new_zeros(len(targets)), hidden.new_zeros(len(targets))
        parts = (hidden[supervised], targets[supervised], owner)
        for states, wanted, own in zip(*(part.split(CHUNK) for part in parts), strict=True):
            logits = F.linear(states, self.output).float()
            nats.index_add_(0, own, F.cross_entropy(logits, wanted, reduction="none"))
            right.index_add_(0, own, (logits.argmax(dim=-1) == wanted).to(right))
        return nats, right


class SourceThenTarget(Seq2Seq):
    """The family ``decoder``: source, end-of-text, target, end-of-text in one GPT; the source is only read."""

    def __init__(self, gpt: GPT, end: int, smoothing: float = 0.0):
        super().__init__()
        self.gpt, self.end, self.smoothing = gpt, end, smoothing

    @property
    def output(self) -> Tensor:
        """The token embedding, which is tied."""
        return self.gpt.token_embedding.weight

    def batch(self, pairs: list[Pair]) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T), padded on the right; a pad is never a target and, to the right, never seen."""
        inputs = [[*source, self.end, *target] for source, target in pairs]
        targets = [[IGNORE] * len(source) + [*target, self.end] for source, target in pairs]
        return pad_ids(inputs)[0], pad_ids(targets, IGNORE)[0]

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, C)."""
        return self.gpt.hidden_states(input_ids)

    def write(self, sources: list[list[int]], max_new_tokens: int, device: torch.device, **options) -> Tensor:
        """What the GPT writes after each source and the separator: (B, T)."""
        ids, last = pad_ids([[*source, self.end] for source in sources])
        mask = torch.arange(ids.shape[1]) <= last[:, None]  # (B, S)
        found = self.gpt.generate(ids.to(device), max_new_tokens, mask=mask.to(device), end=self.end, **options)
        return found[:, ids.shape[1]:]


class SourceToTarget(Seq2Seq):
    """The family ``encoder-decoder``: the source read both ways, the target written from the end-of-text token on."""

    def __init__(self, model: EncoderDecoder, end: int, smoothing: float = 0.0):
        super().__init__()
        self.model, self.end, self.smoothing = model, end, smoothing

    @property
    def output(self) -> Tensor:
        """The token embedding, which is tied."""
        return self.model.token_embedding.weight

    def batch(self, pairs: list[Pair]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sources (B, S), where they are real (B, S), the targets as they are read and as they are told (B, T)."""
        source_ids, source_real = self._sources([source for source, _ in pairs])
        return (source_ids, source_real, pad_ids([[self.end, *target] for _, target in pairs])[0],
                pad_ids([[*target, self.end] for _, target in pairs], IGNORE)[0])

    def hidden_states(self, source_ids: Tensor, source_real: Tensor, target_ids: Tensor) -> Tensor:
        """(B, S), (B, S), (B, T) -> (B, T, C)."""
        return self.model.hidden_states(source_ids, target_ids, source_real)

    def write(self, sources: list[list[int]], max_new_tokens: int, device: torch.device, **options) -> Tensor:
        """What the decoder writes at each source: (B, T)."""
        source_ids, source_real = (tensor.to(device) for tensor in self._sources(sources))
        start = torch.full((len(sources), 1), self.end, device=device)
        return self.model.generate(source_ids, start, max_new_tokens, source_real=source_real, end=self.end,
                                   **options)[:, 1:]

    @staticmethod
    def _sources(sources: list[list[int]]) -> tuple[Tensor, Tensor]:
        ids, last = pad_ids(sources)
        return ids, torch.arange(ids.shape[1]) <= last[:, None]
