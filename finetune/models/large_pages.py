"""Weights in pages of 2 MB, where Linux gives them.

A decoding step reads all its matrices once. In pages of 4 KB the processor stops at each page's end to look up where
the next one lies, which in a virtual machine halves the speed of reading. Elsewhere tensors stay where they are.
Measured by benchmarks/generation.py.
"""

import ctypes
import math
import sys
from pathlib import Path

import torch
from torch import Tensor

PAGE = 2 << 20
ADVICE = 14  # MADV_HUGEPAGE, of madvise(2)
LINE = 64  # bytes of a cache line, at which each tensor begins
SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def in_large_pages(tensors: list[Tensor | None]) -> list[Tensor | None]:
    """The tensors, contiguous; matrices, except the first two, are copied one behind the other into large pages.

    The first two are the embeddings, of which a step reads a row.
    """
    tensors = [None if own is None else own.contiguous() for own in tensors]
    moved = [at for at, own in enumerate(tensors) if own is not None and own.dim() == 2 and at > 1]
    room = {at: math.ceil(_size(tensors[at]) / LINE) * LINE for at in moved}
    block = _large_block(sum(room.values()))
    if block is None:
        return tensors
    place = 0
    for at in moved:
        own = tensors[at]
        assert own is not None, "moved"
        view = block[place : place + _size(own)].view(own.dtype).view(own.shape)
        tensors[at], place = view.copy_(own), place + room[at]
    return tensors


def _size(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()


def _large_block(size: int) -> Tensor | None:
    """So many bytes that begin at a large page; None where there are none, or where they are large without asking."""
    if sys.platform != "linux" or size < PAGE or "[madvise]" not in (SWITCH.read_text() if SWITCH.exists() else ""):
        return None
    whole = torch.empty(math.ceil(size / PAGE) * PAGE + PAGE, dtype=torch.uint8)
    block = whole[-whole.data_ptr() % PAGE :]
    advised = ctypes.CDLL(None).madvise(
        ctypes.c_void_p(block.data_ptr()), ctypes.c_size_t(len(block) // PAGE * PAGE), ADVICE
    )
    return block if advised == 0 else None
