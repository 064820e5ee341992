"""Linear layers for generation on an x86 CPU, with each matrix in its fastest memory layout.

A decoder reads all its weights for every token. In bf16, or for several sequences at a time, `nn.Linear` is slower
than memory bandwidth, and oneDNN's packed layout is not. One sequence in fp32 is memory-bound in any layout, but the
transpose is faster: each row is accumulated into the result, with no reduction per row.
benchmarks/README.md has the figures.
"""

import copy
import platform
from collections.abc import Iterator
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORTH_IT = 64  # tokens over all sequences at which the time saved pays for the packing


class PackedLinear(nn.Module):
    """``nn.Linear`` without gradients. Later changes to the original layer have no effect on it."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.bias = bias
        with torch.no_grad():
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class TransposedLinear(nn.Module):
    """The same, optimised for a single position: a matrix-vector product."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.bias = weight.new_zeros(len(weight)) if bias is None else bias
        self.weight = weight.detach().t().contiguous().t()  # (C_out, C_in), column by column in memory

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        if x.numel() > x.shape[-1]:  # a prompt
            return F.linear(x, self.weight, self.bias)
        return torch.addmv(self.bias, self.weight, x.flatten()).view(*x.shape[:-1], -1)


def can_pack(weight: Tensor) -> bool:
    """True if a matrix like this can be packed and used in packed form."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    types = [torch.float32] + [torch.bfloat16] * torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.device.type == "cpu" and weight.dtype in types and not torch.is_autocast_enabled("cpu")


class Packable(Protocol):
    """The attributes of a model that ``for_generation`` uses."""

    token_embedding: nn.Embedding
    packed_output: nn.Module | None

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def buffers(self) -> Iterator[Tensor]: ...

    def modules(self) -> Iterator[nn.Module]: ...


P = TypeVar("P", bound=Packable)


def for_generation(model: P, rows: int, max_new_tokens: int) -> P:
    """The model for generating `rows` sequences: a copy with packed layers if that saves time, else the model.

    The copy shares everything but the linear layers and the output, which are in memory twice while it exists.
    """
    output = model.token_embedding.weight
    if rows * max_new_tokens < WORTH_IT or not can_pack(output):
        return model
    layer = TransposedLinear if rows == 1 and output.dtype == torch.float32 else PackedLinear
    tensors = [*model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:  # not subclasses: an adapter computes something else
                setattr(module, name, layer(child.weight, child.bias))
    twin.packed_output = layer(output)
    return twin
