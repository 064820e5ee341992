"""The encoder-only model: every token sees the whole text. It fills in masked words, and classifies.

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
    """A bidirectional language model: the same blocks as a Variant's without the causal mask; tied output matrix.

    BERT's own output has one more layer before the matrix; without it an encoder has a GPT's tensors and no other, and
    can begin from one.
    """

    def __init__(self, config: VariantConfig):
        require_tied(config)
        super().__init__(config)

    initialise = GPT.initialise  # the same rule, by the same names

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The output of the last block, (B, T) -> (B, T, C), normed if pre-norm.

        attention_mask: (B, T), true where there is a token and false at pads, on whichever side; none means no pads.
        """
        return self.run(self.token_embedding(input_ids), *bidirectional_mask(input_ids, attention_mask))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits of the token at each position itself, which the input may hide: (B, T) -> (B, T, V)."""
        return F.linear(self.hidden_states(input_ids, attention_mask), self.token_embedding.weight)

    def loss_sum(
        self, input_ids: Tensor, targets: Tensor, attention_mask: Tensor | None = None, chunk: int = 256
    ) -> Tensor:
        """Cross entropy summed over the supervised positions; divide by their number for the mean.

        input_ids, targets: (B, T); targets[b, t] is the token that input_ids[b, t] hides, or gpt.IGNORE.
        """
        return summed_loss(self.hidden_states(input_ids, attention_mask), self.token_embedding.weight, targets, chunk)


class EncoderClassifier(nn.Module):
    """A linear head, without bias, on the mean of the hidden states of the real tokens.

    BERT reads its first token, [CLS], which next-sentence prediction taught to stand for the text. Here nothing teaches
    a first token that, GPT-2's vocabulary has no such token, and the mean is of states that all were trained.
    """

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.width, classes, bias=False)

    initialise_head = Classifier.initialise_head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Class logits: (B, T), real as ``Encoder.hidden_states`` -> (B, K)."""
        attention_mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask
        hidden = self.encoder.hidden_states(input_ids, attention_mask).masked_fill(~attention_mask[:, :, None], 0.0)
        return self.head(hidden.sum(dim=1) / attention_mask.sum(dim=1, keepdim=True))


def bidirectional_mask(input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mask (B, 1, 1, T) under which every token sees every real one, and the positions (B, T)."""
    attention_mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask
    return attention_mask[:, None, None, :], positions_of(attention_mask)


def positions_of(attention_mask: Tensor) -> Tensor:
    """Where the tokens stand in their own text, pads before it or after it not counted: (B, T) -> (B, T)."""
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)


def require_tied(config: VariantConfig) -> None:
    """Raises WeightsError for an output matrix of its own."""
    if not config.tied:
        raise WeightsError("an encoder's output matrix is the token embedding", got="tied false", known="tied true")
