"""A language model or an encoder with a head that tags every word. Shape letters as in gpt.py; W words, K tags."""

import torch
from torch import Tensor, nn

from finetune.models.encoder import Encoder, real_tokens
from finetune.models.heads import Reader


class Tagger(nn.Module):
    """A linear head with a bias on the hidden state of each word's last token.

    On a GPT it is equivalent to transformers' GPT2ForTokenClassification, evaluated at those tokens.
    """

    def __init__(self, body: Reader, tags: int):
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.config.width, tags)

    @torch.no_grad()
    def initialise_head(self, seed: int) -> "Tagger":
        """Initialise the head: normal with standard deviation 0.02, as GPT-2's other matrices, and zero bias."""
        self.head.weight.normal_(0.0, 0.02, generator=torch.Generator().manual_seed(seed))
        self.head.bias.zero_()
        return self

    def hidden_states(self, input_ids: Tensor, lasts: Tensor) -> Tensor:
        """(B, T), lasts as for ``forward`` -> (B, T, C). The only place that decides which tokens a word attends to.

        In a decoder, its own and the preceding ones; in an encoder, all but the padding.
        """
        if isinstance(self.body, Encoder):
            return self.body.hidden_states(input_ids, real_tokens(lasts.amax(dim=1), input_ids.shape[1]))
        return self.body.hidden_states(input_ids)

    def forward(self, input_ids: Tensor, lasts: Tensor) -> Tensor:
        """Tag logits of words: ids (B, T), positions of their last tokens (B, W) -> (B, W, K)."""
        hidden = self.hidden_states(input_ids, lasts)
        return self.head(hidden.gather(1, lasts[:, :, None].expand(-1, -1, hidden.shape[2])))
