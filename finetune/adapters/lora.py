"""LoRA: a trainable low-rank update to a frozen linear layer (Hu et al. 2021, arXiv:2106.09685).

Layers are found by name and replaced after the weights are loaded. Model code does not depend on LoRA, and the names of
the base parameters do not change. Shape letters: I inputs, O outputs, R rank.
"""

import math
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import RecipeError

M = TypeVar("M", bound=nn.Module)


class LoRALinear(nn.Linear):
    """W x + b + (alpha / R) B A x (eq. 3), where W and b are the parameters of the layer it replaces.

    B starts at zero, so the initial output equals the base layer's bit for bit. Dropout applies to A's input only.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float, generator: torch.Generator):
        nn.Module.__init__(self)  # not nn.Linear's, which would initialise weights
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias  # (O, I), (O,)
        self.rank, self.alpha = rank, alpha
        self.drop = nn.Dropout(dropout)
        bound = 1 / math.sqrt(self.in_features)  # as in nn.Linear's initialisation
        drawn = torch.empty(rank, self.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(drawn.to(self.weight))  # (R, I)
        self.lora_B = nn.Parameter(self.weight.new_zeros(self.out_features, rank))  # (O, R)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        update = F.linear(F.linear(self.drop(x), self.lora_A), self.lora_B)
        return F.linear(x, self.weight, self.bias) + update * (self.alpha / self.rank)

    def merged(self) -> nn.Linear:
        """The merged nn.Linear, with weight W + (alpha / R) B A."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, self.weight.device)
        plain.weight = nn.Parameter(
            self.weight.detach() + self.lora_B.detach() @ self.lora_A.detach() * (self.alpha / self.rank)
        )
        plain.bias = self.bias
        return plain.train(self.training)


def add_lora(model: nn.Module, rank: int, alpha: float, dropout: float, targets: tuple[str, ...], seed: int) -> None:
    """Replace every linear layer that matches `targets`, in place.

    A target is a layer's name or a suffix of it after a dot (``attention.qkv``); * matches any characters.
    Raises RecipeError if a target matches no layer, or if the rank is not below the rank of a layer.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    for target in targets:
        if not any(_names(target, name) for name in layers):
            raise RecipeError(
                f"no linear layer is called {target!r}",
                known=", ".join(_kinds(layers)),
                do="Give a layer's full name, or use * for any part of it.",
            )
    generator = torch.Generator().manual_seed(seed)
    for name, layer in layers.items():
        if any(_names(target, name) for target in targets):
            least = min(layer.in_features, layer.out_features)
            if rank >= least:
                raise RecipeError(
                    f"a LoRA rank of {rank} is not below the full rank of {name}",
                    known=f"1 to {least - 1}",
                    do="Lower train.lora_rank.",
                )
            _put(model, name, LoRALinear(layer, rank, alpha, dropout, generator))


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The LoRA layers by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}


def lora_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """The tensors that LoRA added, by name: A and B of each layer."""
    return {
        f"{name}.{kind}": getattr(layer, kind)
        for name, layer in lora_layers(model).items()
        for kind in ("lora_A", "lora_B")
    }


def merge(model: M) -> M:
    """Merge all LoRA layers into plain linear layers, in place. Returns the model."""
    for name, layer in lora_layers(model).items():
        _put(model, name, layer.merged())
    return model


def _names(target: str, name: str) -> bool:
    return fnmatchcase(f".{name}", f"*.{target}")


def _kinds(layers: Iterable[str]) -> list[str]:
    """Unique names with numbers replaced by *: ``blocks.*.mlp.up``."""
    return list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in layers))


def _put(model: nn.Module, name: str, layer: nn.Linear) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)
