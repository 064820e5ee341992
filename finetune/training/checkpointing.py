"""Activation checkpointing: keep each block's input alone, and run the block again in the backward pass.

Chen et al. 2016, arXiv:1604.06174. The same gradients, bit for bit, for about a third more time; switch:
train.checkpoint_blocks; benchmark: benchmarks/memory.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from finetune.models import gpt, transformer


@contextmanager
def run_again(blocks: list[nn.Module], random: bool) -> Iterator[None]:
    """Inside this context, a forward pass of these modules keeps their inputs alone. random: whether they have dropout."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=random)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # that of the class is seen again


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a model, each once."""
    return [module for module in model.modules() if isinstance(module, gpt.Block | transformer.Block)]
