"""Texts side by side, without padding between them: attention within each, and when it saves time. Letters as in gpt.py.

The N tokens of several texts stand in one row, (N, C); all layers but attention treat every token alike. On a GPU PyTorch's
variable-length attention takes the texts' bounds in place of a mask; on a CPU each text is attended to by itself. A classifier
on a CPU computes a padded batch in this way, which is exact. Benchmarks: benchmarks/gpu.py, training_steps.py,
packed_documents.py; switches: pretrain.packed_attention = masked; WORTH_IT = 1.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

WORTH_IT = 0.05  # share of padding in a batch from which it is removed on a CPU
_kernel: Callable[..., Any] | None = None  # PyTorch's variable-length attention, once it is loaded


class Layout(NamedTuple):
    """Where texts begin among N tokens.

    bounds: int32, the first token of each text, and N as often as there is room. longest: no text has more tokens.
    """

    bounds: Tensor
    longest: int


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float = 0.0) -> Tensor:
    """Causal attention within each text: (N, H, D) each -> (N, H, D). dropout: of the weights, on a CPU alone."""
    bounds, longest = layout
    if query.device.type == "cuda":
        assert _kernel is not None, "why_not_varlen asks for it, and refuses a torch without it"
        return _kernel(query, key, value, bounds, bounds, longest, longest, **_causal())
    sizes = [size for size in bounds.diff().tolist() if size]
    # (1, H, N, D): PyTorch's fast kernel needs four dimensions
    batches = (z.transpose(0, 1).unsqueeze(0) for z in (query, key, value))
    texts = zip(*(z.split(sizes, dim=2) for z in batches), strict=True)
    found = [F.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=True) for q, k, v in texts]
    return torch.cat(found, dim=2).squeeze(0).transpose(0, 1)


def real_tokens_of(last: Tensor, length: int) -> tuple[Tensor, Layout] | None:
    """Which of the B * length places of a padded batch hold tokens, (N,), and their layout; None where padding may stay.

    last: (B,), the index of each text's last token. Padding stays on other devices than a CPU, where it is little, and
    where the computation is being recorded for any input.
    """
    if last.device.type != "cpu" or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return None
    sizes = last + 1
    if sizes.sum() > (1 - WORTH_IT) * len(last) * length:
        return None
    places = (torch.arange(length) < sizes[:, None]).flatten().nonzero()[:, 0]
    return places, Layout(F.pad(sizes.cumsum(0), (1, 0)).int(), length)


def load_kernel() -> bool:
    """Load PyTorch's variable-length attention; False before torch 2.10. Its import takes a second, so only a GPU asks."""
    global _kernel
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    _kernel = varlen_attn
    return True


def _causal() -> dict[str, Any]:
    """The option that makes this torch's variable-length attention causal."""
    assert _kernel is not None
    names = inspect.signature(_kernel).parameters
    return {"window_size": (-1, 0)} if "window_size" in names else {"is_causal": True}
