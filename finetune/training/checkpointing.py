"""Activation checkpointing: store only each block's input, and recompute the block in the backward pass.

Chen et al. 2016, arXiv:1604.06174. The gradients are the same, bit for bit; a step takes about a third more time.
Switch: train.checkpoint_blocks. Benchmark: benchmarks/memory.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from finetune.models import gpt, transformer


@contextmanager
def run_again(blocks: list[nn.Module], random: bool) -> Iterator[None]:
    """Within this block, a forward pass stores only the inputs of these modules. random: whether they have dropout."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=random)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # uncovers the method of the class


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a model, without duplicates."""
    return [module for module in model.modules() if isinstance(module, gpt.Block | transformer.Block)]
