"""Linear layers for generation on an x86 CPU: each matrix in the order of memory that oneDNN multiplies fastest.

A decoder reads all of its weights for every token. In bf16, or for several sequences at a time, the product as
`nn.Linear` computes it is slower than memory; one sequence in fp32 waits for memory in any order.
benchmarks/README.md has the figures.
"""

import copy
import platform

import torch
from torch import Tensor, nn

WORTH_IT = 64  # tokens, of all sequences together; packing costs as much time as so many save at most


class PackedLinear(nn.Module):
    """What ``nn.Linear`` computes, without gradients. Changing the layer that it was made from does not change it."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.bias = bias
        with torch.no_grad():
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def can_pack(weight: Tensor) -> bool:
    """True where a matrix like this can be packed, and the packed one be used."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    types = [torch.float32] + [torch.bfloat16] * torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.device.type == "cpu" and weight.dtype in types and not torch.is_autocast_enabled("cpu")


def worth_packing(weight: Tensor, rows: int, max_new_tokens: int) -> bool:
    """True where packing saves more time than it takes."""
    gains = rows > 1 or weight.dtype == torch.bfloat16
    return gains and rows * max_new_tokens >= WORTH_IT and can_pack(weight)


def packed(model: nn.Module) -> nn.Module:
    """A copy for generation that shares all but the linear layers and the output matrix, which are packed."""
    tensors = [*model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:  # no subclass: an adapter computes something else
                setattr(module, name, PackedLinear(child.weight, child.bias))
    twin.packed_output = PackedLinear(twin.token_embedding.weight)
    return twin
