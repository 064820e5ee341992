"""The encoder-only model with bidirectional attention, for masked language modelling and classification.

Sources: Devlin et al. 2019, arXiv:1810.04805 (BERT: masked-language-model pretraining, post-norm); Vaswani et al. 2017,
arXiv:1706.03762 (the encoder); Liu et al. 2019, arXiv:1907.11692 (RoBERTa, section 4.2: no next-sentence prediction).
Shape letters as in gpt.py.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.errors import WeightsError
from finetune.models.gpt import summed_loss
from finetune.models.transformer import Stack, TransformerConfig


class Encoder(Stack):
    """A bidirectional language model: the blocks of a Transformer without the causal mask, and a tied output matrix.

    BERT's masked-LM head has one more layer before the output matrix. Without it the encoder has exactly a GPT's
    tensors and can be initialised from one.
    """

    kind = "an encoder"

    def __init__(self, config: TransformerConfig):
        require_tied(config)
        super().__init__(config)

    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """The output of the last block, (B, T) -> (B, T, C), after the final norm if pre-norm.

        attention_mask: (B, T), true at tokens and false at padding on either side; or (B, 1, T, T), true where a token
        may attend to another, with `positions` (B, T), for packed documents. None means no padding.
        """
        mask = attention_mask
        if mask is None or mask.dim() == 2:
            mask, positions = bidirectional_mask(input_ids, mask)
        assert positions is not None, "packed documents say where each of them begins"
        return self.run(self.token_embedding(input_ids), mask, positions)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits of the token at each position, which may be masked in the input: (B, T) -> (B, T, V)."""
        return F.linear(self.hidden_states(input_ids, attention_mask), self.token_embedding.weight)

    def loss_sum(
        self,
        input_ids: Tensor,
        targets: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        chunk: int = 256,
    ) -> Tensor:
        """Cross entropy summed over the supervised positions; divide by their number for the mean.

        input_ids, targets: (B, T); targets[b, t] is the token masked at input_ids[b, t], or gpt.IGNORE.
        attention_mask, positions: as for ``hidden_states``.
        """
        hidden = self.hidden_states(input_ids, attention_mask, positions)
        return summed_loss(hidden, self.token_embedding.weight, targets, chunk)

    def text_layout(self, last: Tensor, T: int) -> tuple[Tensor, Tensor]:
        """The mask (B, 1, 1, T) and the positions (B, T) of right-padded texts whose last tokens are at `last` (B,)."""
        attention_mask = real_tokens(last, T)
        return attention_mask[:, None, None, :], positions_of(attention_mask)

    def text_state(self, states: Tensor, last: Tensor) -> Tensor:
        """What stands for a text: the mean of the states of all its tokens, (B, T, C) -> (B, C).

        BERT classifies from its first token, [CLS], which next-sentence prediction trains to represent the text.
        GPT-2's vocabulary has no such token and there is no such objective here.
        """
        attention_mask = real_tokens(last, states.shape[1])
        states = states.masked_fill(~attention_mask[:, :, None], 0.0)
        return states.sum(dim=1) / attention_mask.sum(dim=1, keepdim=True)


def bidirectional_mask(input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mask (B, 1, 1, T) that hides padding from every token, and the position ids (B, T)."""
    attention_mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask
    return attention_mask[:, None, None, :], positions_of(attention_mask)


def real_tokens(last: Tensor, T: int) -> Tensor:
    """The attention mask (B, T) of right-padded texts whose last tokens are at `last` (B,)."""
    return torch.arange(T, device=last.device) <= last[:, None]


def positions_of(attention_mask: Tensor) -> Tensor:
    """Position ids within each text, not counting padding on either side: (B, T) -> (B, T)."""
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)


def require_tied(config: TransformerConfig) -> None:
    """Raises WeightsError for an untied output matrix."""
    if not config.tied:
        raise WeightsError(
            "an encoder's output matrix is the token embedding",
            got="tied false",
            known="tied true",
            do="For new weights: --set shape.tied=true",
        )
