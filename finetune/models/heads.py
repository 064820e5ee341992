"""Heads that replace a GPT's next-token output, and loss wrappers. Shape letters as in gpt.py; K classes."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from finetune.models.gpt import GPT, causal_mask_at, gather_positions


class Headed(Protocol):
    """The attributes of a model that ``Classifier.initialise_head`` uses."""

    head: nn.Linear


H = TypeVar("H", bound=Headed)


class SumsLoss(Protocol):
    """The method of a model that ``LossModule`` calls."""

    @property
    def loss_sum(self) -> Callable[..., Tensor]: ...


class Classifier(nn.Module):
    """A linear head, without bias, on the hidden state of the last token before padding.

    Equivalent to transformers' GPT2ForSequenceClassification on right-padded batches. Under causal attention that
    token never attends to padding, so a prediction does not depend on the rest of the batch.
    """

    def __init__(self, gpt: GPT, classes: int):
        super().__init__()
        self.gpt = gpt
        self.head = nn.Linear(gpt.config.width, classes, bias=False)

    @torch.no_grad()
    def initialise_head(self: H, seed: int) -> H:
        """Initialise the head: normal with standard deviation 0.02, as GPT-2's other matrices."""
        self.head.weight.normal_(0.0, 0.02, generator=torch.Generator().manual_seed(seed))
        return self

    def lower(self, input_ids: Tensor, blocks: int) -> Tensor:
        """The residual stream below block number `blocks`: (B, T) -> (B, T, C)."""
        x = self.gpt.embed(input_ids)
        for block in self.gpt.blocks[:blocks]:
            x = block(x)
        return x

    def forward(self, inputs: Tensor, last: Tensor, first_block: int = 0) -> Tensor:
        """Class logits (B, K).

        inputs: token ids (B, T), or, with first_block > 0, the output of ``lower(ids, first_block)`` (B, T, C).
        last: (B,), the index of each text's last token before padding.
        The top block computes that position only, which gives the same logits for a fraction of the work.
        """
        x = inputs if first_block else self.gpt.embed(inputs)
        for block in self.gpt.blocks[first_block:-1]:
            x = block(x)
        if first_block < len(self.gpt.blocks):
            x = self.gpt.blocks[-1](x, mask=causal_mask_at(last, x.shape[1]), at=last)  # (B, 1, C)
        else:
            x = gather_positions(x, last)
        return self.head(self.gpt.norm(x[:, 0]))


class NextToken(nn.Module):
    """A GPT whose forward pass is its loss, so that model wrappers also work for language modelling."""

    def __init__(self, gpt: GPT):
        super().__init__()
        self.gpt = gpt

    def forward(
        self, input_ids: Tensor, targets: Tensor, mask: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Cross entropy summed over the supervised positions, as ``GPT.loss_sum``."""
        return self.gpt.loss_sum(input_ids, targets, mask, positions)


class LossModule(nn.Module):
    """Any model with a ``loss_sum``, called as ``NextToken`` is: an encoder, an encoder-decoder."""

    model: SumsLoss

    def __init__(self, model: SumsLoss):
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        """Cross entropy summed over the supervised positions."""
        return self.model.loss_sum(*inputs)
