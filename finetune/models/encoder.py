"""The encoder-only model with bidirectional attention, for masked language modelling and classification.

Sources: Devlin et al. 2019, arXiv:1810.04805 (BERT: masked-language-model pretraining, post-norm); Vaswani et al. 2017,
arXiv:1706.03762 (the encoder); Liu et al. 2019, arXiv:1907.11692 (RoBERTa, section 4.2: no next-sentence prediction).
Shape letters as in gpt.py; K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import WeightsError
from finetune.models.gpt import GPT, summed_loss
from finetune.models.heads import Classifier
from finetune.models.variants import Stack, VariantConfig


class Encoder(Stack):
    """A bidirectional language model: the blocks of a Variant without the causal mask, and a tied output matrix.

    BERT's masked-LM head has one more layer before the output matrix. Without it the encoder has exactly a GPT's
    tensors and can be initialised from one.
    """

    def __init__(self, config: VariantConfig):
        require_tied(config)
        super().__init__(config)

    initialise = GPT.initialise  # the same rule, by the same names

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The output of the last block, (B, T) -> (B, T, C), after the final norm if pre-norm.

        attention_mask: (B, T), true at tokens and false at padding on either side; None means no padding.
        """
        return self.run(self.token_embedding(input_ids), *bidirectional_mask(input_ids, attention_mask))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits of the token at each position, which may be masked in the input: (B, T) -> (B, T, V)."""
        return F.linear(self.hidden_states(input_ids, attention_mask), self.token_embedding.weight)

    def loss_sum(
        self, input_ids: Tensor, targets: Tensor, attention_mask: Tensor | None = None, chunk: int = 256
    ) -> Tensor:
        """Cross entropy summed over the supervised positions; divide by their number for the mean.

        input_ids, targets: (B, T); targets[b, t] is the token masked at input_ids[b, t], or gpt.IGNORE.
        """
        return summed_loss(self.hidden_states(input_ids, attention_mask), self.token_embedding.weight, targets, chunk)


class EncoderClassifier(nn.Module):
    """A linear head, without bias, on the mean of the hidden states of all tokens except padding.

    BERT classifies from its first token, [CLS], which next-sentence prediction trains to represent the text. GPT-2's
    vocabulary has no such token and there is no such objective here, so the head uses mean pooling.
    """

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.width, classes, bias=False)

    initialise_head = Classifier.initialise_head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Class logits: (B, T), with a mask as in ``Encoder.hidden_states`` -> (B, K)."""
        attention_mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask
        hidden = self.encoder.hidden_states(input_ids, attention_mask).masked_fill(~attention_mask[:, :, None], 0.0)
        return self.head(hidden.sum(dim=1) / attention_mask.sum(dim=1, keepdim=True))


def bidirectional_mask(input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mask (B, 1, 1, T) that hides padding from every token, and the position ids (B, T)."""
    attention_mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask
    return attention_mask[:, None, None, :], positions_of(attention_mask)


def positions_of(attention_mask: Tensor) -> Tensor:
    """Position ids within each text, not counting padding on either side: (B, T) -> (B, T)."""
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)


def require_tied(config: VariantConfig) -> None:
    """Raises WeightsError for an untied output matrix."""
    if not config.tied:
        raise WeightsError("an encoder's output matrix is the token embedding", got="tied false", known="tied true")
