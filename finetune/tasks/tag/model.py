"""A GPT with a head that gives every word a tag. Shape letters as in gpt.py; W words, K tags."""

import torch
from torch import Tensor, nn

from finetune.models.gpt import GPT


class Tagger(nn.Module):
    """A linear head with a bias on the hidden state of each word's last token.

    Equivalent to transformers' GPT2ForTokenClassification, read at those tokens.
    """

    def __init__(self, gpt: GPT, tags: int):
        super().__init__()
        self.gpt = gpt
        self.head = nn.Linear(gpt.config.width, tags)

    @torch.no_grad()
    def initialise_head(self, seed: int) -> "Tagger":
        """Initialise the head: normal with standard deviation 0.02, as GPT-2's other matrices, and no bias."""
        self.head.weight.normal_(0.0, 0.02, generator=torch.Generator().manual_seed(seed))
        self.head.bias.zero_()
        return self

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, C). The one place that decides what a word sees: here itself and the words before it.

        A body that looks both ways (an encoder) would be called here, with the mask of its padding.
        """
        return self.gpt.hidden_states(input_ids)

    def forward(self, input_ids: Tensor, lasts: Tensor) -> Tensor:
        """Tag logits of words: ids (B, T), places of their last tokens (B, W) -> (B, W, K)."""
        hidden = self.hidden_states(input_ids)
        return self.head(hidden.gather(1, lasts[:, :, None].expand(-1, -1, hidden.shape[2])))
