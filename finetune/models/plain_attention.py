"""Attention written out as its formula, and the attention weights of a forward pass, for plots and teaching.

The models call PyTorch's fused kernel, which is faster but does not return the weights. ``Recording`` replaces it
during a forward pass, so models need no second code path. Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
Shape letters as in gpt.py; L layers, S keys (source tokens in cross-attention).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from finetune.models.encoder import Encoder
from finetune.models.encoder_decoder import EncoderDecoder


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(D)) V and the attention weights: (B, H, T, D), (B, H, T, S).

    query: (B, H, T, D). key, value: (B, H, S, D). attn_mask: boolean, true where a query may attend, or a bias added
    to the scores; broadcasts to (B, H, T, S). Parameters are named as in ``F.scaled_dot_product_attention``.
    """
    assert not dropout_p, "dropout hides some of the weights: call model.eval() first"
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, T, S)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if boolean else scores + attn_mask
    weights = scores.softmax(dim=-1)
    return weights @ value, weights


class Recording(TorchFunctionMode):
    """A context that replaces fused attention with ``attention`` and collects each call's weights, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called by PyTorch in place of each of its functions."""
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        output, weights = plain_attention(*args, **(kwargs or {}))
        self.weights.append(weights.detach())
        return output


@torch.no_grad()
def attention_maps(model: nn.Module, *inputs: Tensor, **more: Tensor) -> dict[str, Tensor]:
    """The attention weights of ``model(*inputs, **more)``, the model in eval mode.

    "decoder": (L, B, H, T, T) of a GPT, a Transformer or a decoder; "encoder": (L, B, H, S, S); "cross": (L, B, H, T, S).
    Of a classifier pass ``model.body``: on a GPT its top block computes one position only.
    """
    with Recording() as recording:
        model(*inputs, **more)
    calls = recording.weights
    if isinstance(model, EncoderDecoder):  # the encoder's blocks; then self-attention and cross-attention alternate
        encoder, decoder = calls[: len(model.encoder.blocks)], calls[len(model.encoder.blocks) :]
        parts = {"encoder": encoder, "decoder": decoder[0::2], "cross": decoder[1::2]}
    else:
        parts = {"encoder" if isinstance(model, Encoder) else "decoder": calls}
    return {name: torch.stack(part) for name, part in parts.items()}
