"""A model whose weights are divided among the processes that train it (FSDP2), so that none holds all of them.

Each block's weights, gradients and optimizer moments are sharded; a block is gathered where it runs and freed after
(Zhao et al. 2023, arXiv:2304.11277; torch.distributed.fsdp.fully_shard). Embedding, head and last norm form a unit of
their own, so that a head tied to the embedding stays one tensor.
"""

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

from finetune.models.transformer import CrossAttention
from finetune.training.checkpointing import blocks_of

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

FORWARDS = ("teacher_forced", "read")  # methods, other than forward, through which a unit is called


def shard(model: nn.Module, device: torch.device) -> None:
    """Divide the model's weights among all processes, in place; each must hold the same weights."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    cross = [module for module in model.modules() if isinstance(module, CrossAttention)]
    for unit in (*cross, *blocks_of(model), model):
        fully_shard(unit, mesh=mesh)
        for name in FORWARDS:
            if hasattr(unit, name):
                register_fsdp_forward_method(unit, name)


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's weights are divided."""
    return any(map(_is_divided, model.parameters()))


def free_gathered(model: nn.Module) -> None:
    """Free what a forward pass gathered, so that the model's parameters are the divided ones again."""
    sharded = _loaded("torch.distributed.fsdp", "FSDPModule")
    for module in model.modules():
        if isinstance(module, sharded):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or gathered from all processes, which must all ask for it."""
    return tensor.full_tensor() if _is_divided(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The tensor itself, or this process's part of it, in the same memory."""
    return tensor.to_local() if _is_divided(tensor) else tensor


def divided_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, on the device of `like`, and divided as it is where they have one shape."""
    tensor = tensor.to(like.device)
    if _is_divided(like) and tensor.shape == like.shape:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor, like.device_mesh, like.placements)
    return tensor


def _is_divided(tensor: Tensor) -> "TypeGuard[DTensor]":
    return isinstance(tensor, _loaded("torch.distributed.tensor", "DTensor"))


def _loaded(module: str, name: str) -> Any:
    """A class of a module that takes a second to import, or no class, as long as nothing can be an instance of it."""
    return getattr(sys.modules.get(module), name, ())
