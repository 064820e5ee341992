"""The loss of a GPT on packed documents, all of them in one row: no padding, no mask, no attention across documents.

Attention gets the documents' bounds instead of a mask, and skips what a mask would hide (side_by_side.py).
On a GPU the vocabulary is padded to a multiple of 64, in the compute copy of the output matrix alone. The plain path is
``GPT.loss_sum`` with the mask and positions of ``document_layout``. Letters as in gpt.py; N tokens, D documents.
Benchmarks: benchmarks/gpu.py, packed_documents.py; switch: pretrain.packed_attention = masked.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from finetune.models import side_by_side
from finetune.models.gpt import GPT, IGNORE, summed_loss
from finetune.models.side_by_side import Layout

BOUNDS = 64  # the number of bounds is a multiple of it, so that few shapes occur
VOCABULARY = 64  # likewise the rows of the output matrix, which matrix products need to be fast
CHUNK = 4096  # positions whose logits exist at a time


class PackedLoss(nn.Module):
    """A GPT whose forward pass is its loss on packed documents.

    fused: the loss by PyTorch's linear_cross_entropy, else in chunks.
    """

    def __init__(self, body: GPT, fused: bool = False):
        super().__init__()
        self.body, self.fused = body, fused

    def forward(self, inputs: Tensor, targets: Tensor, positions: Tensor, bounds: Tensor) -> Tensor:
        """Cross entropy summed over the supervised positions.

        inputs, targets: (B, T), where a row is a sequence of documents. positions: (B, T), of each token in its document.
        bounds: int32, the first token of each document among all B * T and B * T itself, as often as there is room.
        """
        body, layout = self.body, Layout(bounds, inputs.shape[1])
        x = body.drop(body.token_embedding(inputs) + body.position_embedding(positions)).flatten(0, 1)  # (N, C)
        for block in body.blocks:
            x = block(x, layout=layout)
        if x.device.type == "cpu" and not self.fused:
            return summed_loss(body.norm(x).unsqueeze(0), body.output, targets.unsqueeze(0))
        return packed_cross_entropy(body.norm(x), body.output, targets.flatten(), self.fused)


def why_not_varlen(body: nn.Module, device: torch.device, precision: str) -> str:
    """Why variable-length attention cannot be used for this model, in words; empty if it can."""
    if not isinstance(body, GPT):
        return "variable-length attention supports only GPT-2's blocks"
    if device.type == "cuda" and body.config.dropout:
        return "the variable-length kernel has no dropout"
    if device.type == "cuda" and not side_by_side.load_kernel():
        return f"torch {torch.__version__} has no variable-length attention"
    if device.type == "cuda" and precision != "bf16":
        return "the variable-length kernel needs bf16"
    return ""


def document_bounds(inputs: Tensor, end_of_text: int) -> tuple[Tensor, Tensor]:
    """(positions, bounds) of packed documents (B, T) on the CPU, as ``PackedLoss`` takes them.

    A document begins with the end-of-text id, and at the start of a row, where the rest of an earlier one may stand.
    """
    begins = inputs == end_of_text
    begins[:, 0] = True
    starts = begins.flatten().nonzero()[:, 0]
    total = inputs.numel()
    bounds = torch.full((-(-(len(starts) + 1) // BOUNDS) * BOUNDS,), total, dtype=torch.int32)
    bounds[: len(starts)] = starts
    index = torch.arange(total)
    first = torch.where(begins.flatten(), index, 0).cummax(0).values
    return (index - first).view_as(inputs), bounds


def packed_cross_entropy(hidden: Tensor, output: Tensor, targets: Tensor, fused: bool = False) -> Tensor:
    """Summed cross entropy of hidden (N, C) with output matrix (V, C); targets (N,) may be IGNORE."""
    more = -len(output) % VOCABULARY
    weight = F.pad(output, (0, 0, 0, more))
    bias = output.new_zeros(len(weight))
    bias[len(output) :] = -1e4  # exp of it is 0: a token that does not exist has no share
    if fused:
        if torch.is_autocast_enabled(hidden.device.type):
            kind = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight, bias = (tensor.to(kind) for tensor in (hidden, weight, bias))
        options = nn.LinearCrossEntropyOptions()
        return F.linear_cross_entropy(
            hidden, weight, targets, linear_bias=bias, reduction="sum", ignore_index=IGNORE, options=options
        ).float()

    def loss(part: Tensor, answers: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(part, weight, bias).float(), answers, reduction="sum", ignore_index=IGNORE)

    losses = [
        checkpoint(loss, *part, use_reentrant=False, preserve_rng_state=False)
        for part in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
    ]
    return torch.stack(losses).sum()


def has_fused_loss() -> bool:
    """Whether this torch computes the output matrix and the cross entropy in one operation (from 2.13 on)."""
    return hasattr(F, "linear_cross_entropy") and hasattr(nn, "LinearCrossEntropyOptions")
