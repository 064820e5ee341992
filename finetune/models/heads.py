"""Heads that replace the output of a language model, and the loss as a module. Letters as in gpt.py; K classes."""

from collections.abc import Callable
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from finetune.models.encoder import Encoder, real_tokens
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT, causal_mask_at, gather_positions
from finetune.models.side_by_side import real_tokens_of
from finetune.models.transformer import Transformer

Reader = GPT | Transformer | Encoder  # what a classifier stands on


class SumsLoss(Protocol):
    """The method of a model that ``LossModule`` calls."""

    @property
    def loss_sum(self) -> Callable[..., Tensor]: ...


B = TypeVar("B", bound=Reader | EncoderDecoder)
L = TypeVar("L", bound=SumsLoss)


class Head(nn.Module, Generic[B]):
    """A linear layer, without bias, on one state per text, which a subclass takes from the body."""

    body: B

    def __init__(self, body: B, classes: int):
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.config.width, classes, bias=False)

    @torch.no_grad()
    def initialise_head(self, seed: int) -> Self:
        """Initialise the head: normal with standard deviation 0.02, as GPT-2's other matrices."""
        self.head.weight.normal_(0.0, 0.02, generator=torch.Generator().manual_seed(seed))
        return self


class Classifier(Head[Reader]):
    """A head on what stands for a text: a decoder's state at the last token before padding, an encoder's mean state.

    On a GPT it is equivalent to transformers' GPT2ForSequenceClassification on right-padded batches. Padding is never
    attended to, so a prediction does not depend on the rest of the batch.
    """

    @property
    def reads_last(self) -> bool:
        """Whether the head reads the last token's state and no other."""
        return not isinstance(self.body, Encoder)

    def lower(self, input_ids: Tensor, last: Tensor, blocks: int) -> Tensor:
        """The residual stream below block number `blocks`: (B, T), last as for ``forward`` -> (B, T, C)."""
        return self._run(self.body.embed(input_ids), last, slice(0, blocks))

    def forward(self, inputs: Tensor, last: Tensor, first_block: int = 0) -> Tensor:
        """Class logits (B, K); arguments as for ``state``."""
        return self.head(self.state(inputs, last, first_block))

    def state(self, inputs: Tensor, last: Tensor, first_block: int = 0) -> Tensor:
        """What the head reads: one state per text after the last norm, (B, C).

        inputs: token ids (B, T), or, with first_block > 0, the output of ``lower`` for that block (B, T, C).
        last: (B,), the index of each text's last token before padding.
        A GPT's top block computes that position only, which gives the same state for a fraction of the work.
        """
        body, x = self.body, inputs if first_block else self.body.embed(inputs)
        if not isinstance(body, GPT):
            return body.text_state(body.norm(self._run(x, last, slice(first_block, None))), last)
        x = self._run(x, last, slice(first_block, -1))
        if first_block < len(body.blocks):
            x = body.blocks[-1](x, mask=causal_mask_at(last, x.shape[1]), at=last)  # (B, 1, C)
        else:
            x = gather_positions(x, last)
        return body.norm(x[:, 0])

    def _run(self, x: Tensor, last: Tensor, blocks: slice) -> Tensor:
        """Run some of the blocks: (B, T, C) -> (B, T, C)."""
        if not isinstance(self.body, GPT):
            mask, positions = self.body.text_layout(last, x.shape[1])
            return self.body.run_blocks(x, mask, positions, blocks)
        real = real_tokens_of(last, x.shape[1])
        if real is None:
            for block in self.body.blocks[blocks]:
                x = block(x)
            return x
        places, layout = real
        own = x.flatten(0, 1)[places]  # (N, C)
        for block in self.body.blocks[blocks]:
            own = block(own, layout=layout)
        return torch.zeros_like(x).flatten(0, 1).index_copy(0, places, own).view_as(x)


class EncoderDecoderClassifier(Head[EncoderDecoder]):
    """A head on the decoder's hidden state at the start token; the text is the source."""

    def __init__(self, body: EncoderDecoder, classes: int, start: int):
        super().__init__(body, classes)
        self.start = start

    def forward(self, input_ids: Tensor, last: Tensor) -> Tensor:
        """Class logits: right-padded texts (B, T), last as in ``Classifier.forward`` -> (B, K)."""
        start = torch.full_like(input_ids[:, :1], self.start)
        return self.head(self.body.hidden_states(input_ids, start, real_tokens(last, input_ids.shape[1]))[:, 0])


class LossModule(nn.Module, Generic[L]):
    """A language model whose forward pass is its loss, so that wrappers around a model also work for its training."""

    body: L

    def __init__(self, body: L):
        super().__init__()
        self.body = body

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """Cross entropy summed over the supervised positions; inputs as for the body's ``loss_sum``."""
        return self.body.loss_sum(*inputs)
