"""Shared by all tasks: which weights are trained, and the settings that depend on the weights.

Task-specific code is in ``finetune/tasks/NAME/``; see ``tasks/base.py``.
"""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from finetune.adapters.lora import add_lora, lora_tensors
from finetune.errors import RecipeError, counted
from finetune.models.bodies import Body
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT
from finetune.models.transformer import Stack, TransformerConfig
from finetune.recipe import FEATURES, Train, check_method
from finetune.records import SMALL_MODEL

LARGE = 500_000_000  # parameters from which adapters are trained instead of all weights
MANY = 2_000  # training rows from which all weights are trained on a GPU
HIGHEST_USUAL_LR = 0.1  # above it, a warning says that the learning rate is unusual
LORA_RATE = 4  # an adapter's learning rate, as a multiple of the rate for full fine-tuning


@dataclass(frozen=True)
class Trainable:
    """The trainable part of a model."""

    method: str
    names: list[str]
    parameters: int
    total: int
    first_block: int  # blocks below this one are frozen, as are the embeddings

    def describe(self) -> str:
        """One line for the screen."""
        share = self.parameters / self.total
        return (
            f"{self.method}: {self.parameters:,} of {self.total:,} parameters are trained ({share:.1%}), "
            f"in {counted(len(self.names), 'tensor')}: {', '.join(self.places())}"
        )

    def places(self) -> list[str]:
        """Short names of the tensors' locations: blocks as ``blocks.4-5``, adapters as ``blocks.0-5.mlp.up.lora_*``."""
        found: dict[tuple[str, str], set[int]] = {}
        for name in self.names:
            module, _, kind = name.rpartition(".")
            numbered = re.match(r"(.*?)\.(\d+)\.(.*)", module)
            adapter = f"{numbered[3]}.lora_*" if numbered and kind.startswith("lora_") else ""
            numbers = found.setdefault((numbered[1] if numbered else module, adapter), set())
            numbers |= {int(numbered[2])} if numbered else set()
        return [
            ".".join(filter(None, (place, _ranges(sorted(numbers)), adapter)))
            for (place, adapter), numbers in found.items()
        ]


def _ranges(numbers: list[int]) -> str:
    """``0-2,5`` of 0, 1, 2 and 5."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return ",".join(str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True))


def choose_method(parameters: int, pretrained: bool, rows: int, device: str) -> tuple[str, str]:
    """The method that `auto` resolves to, and why. rows: training rows. device: its type (cpu, cuda, mps)."""
    if not pretrained:
        return "full", "random weights hold no knowledge to preserve"
    if parameters < SMALL_MODEL:
        return "full", "a small model is trained in full"
    if device == "cpu":
        return "last-blocks", "on a CPU, training the top of a large model takes a fraction of the time"
    if rows < MANY:
        return "last-blocks", f"{rows:,} rows are too few to train all weights of a large model"
    if parameters < LARGE:
        return "full", f"a GPU and {rows:,} rows are enough to train all weights"
    return "lora", f"all weights, gradients and optimizer moments would take {16 * parameters / 1e9:.0f} GB"


def choose_settings(asked: Train, parameters: int, pretrained: bool, rows: int, device: str) -> tuple[Train, list[str]]:
    """Choose method, learning rate and epochs if they are not set, each with a reason.

    Raises RecipeError for settings that the chosen method does not use.
    """
    chosen: dict[str, Any] = {}
    why = []
    if asked.method == "auto":
        chosen["method"], reason = choose_method(parameters, pretrained, rows, device)
        why.append(f"method {chosen['method']}: {reason}")
    method = chosen.get("method", asked.method)
    if method == FEATURES:
        check_method(asked)
        why.append("one pass over the texts, then logistic regression; validation chooses its regularisation")
        return asked.model_copy(update={"epochs": 1}), why
    if asked.lr is None:
        chosen["lr"] = 1e-3 if not pretrained or method == "head" else 1e-4 if parameters >= SMALL_MODEL else 5e-4
        chosen["lr"] *= LORA_RATE if method == "lora" else 1
        why.append(
            f"lr {chosen['lr']:g}: usual for {method} on {'pretrained' if pretrained else 'random'} weights "
            f"of {parameters / 1e6:.1f} M parameters"
        )
    elif asked.lr > HIGHEST_USUAL_LR:
        why.append(f"warning: lr {asked.lr:g} is far too high to train GPT-2; usual values are between 1e-5 and 1e-2")
    if asked.epochs is None:
        chosen["epochs"] = 5 if pretrained else 12
        why.append(
            f"epochs {chosen['epochs']}: {'a pretrained model' if pretrained else 'random weights'} "
            f"with early stopping after {asked.patience} validations without improvement"
        )
    settings = asked.model_copy(update=chosen)
    check_method(settings)
    return settings, why


def check_shared_blocks(method: str) -> None:
    """Raise RecipeError for a method that trains some of the blocks if they share their weights."""
    if method == "last-blocks":
        raise RecipeError(
            "the last blocks cannot be trained alone: all layers share the weights of one block",
            got="method last-blocks, shared_blocks true",
            known="full, head, lora",
            do="Choose another train.method.",
        )


def adapt(body: nn.Module, settings: Train) -> None:
    """Add the adapters that the method needs, after loading the weights and before ``freeze``."""
    if settings.method == "lora":
        add_lora(
            body, settings.lora_rank, settings.lora_alpha, settings.lora_dropout, settings.lora_targets, settings.seed
        )


def freeze(model: nn.Module, body: Body, method: str, last_blocks: int) -> Trainable:
    """Set requires_grad on the parameters that the method trains, and freeze the rest.

    full: everything. last-blocks: the top `last_blocks` blocks (of both sides of an encoder-decoder), the last norm and
    the head. head, features: the head only. lora: the adapters and the head. Parts of `model` outside `body` are the
    head, which is always trained; so is cross-attention, which a GPT does not have.
    """
    stacks: list[GPT | Stack] = [body.encoder, body.decoder] if isinstance(body, EncoderDecoder) else [body]
    adapted = [number for stack in stacks for number, block in enumerate(stack.blocks) if lora_tensors(block)]
    if isinstance(body.config, TransformerConfig) and body.config.shared_blocks:
        check_shared_blocks(method)
    assert bool(adapted) == (method == "lora"), "adapt comes before freeze"
    layers = min(len(stack.blocks) for stack in stacks)
    first_block = {
        "full": 0,
        "last-blocks": max(layers - last_blocks, 0),
        "head": layers,
        FEATURES: layers,
        "lora": min(adapted, default=0),
    }[method]
    for parameter in body.parameters():
        parameter.requires_grad_(method == "full")
    for name, parameter in body.named_parameters():
        if "cross_attention." in name or "norm_cross." in name:
            parameter.requires_grad_(True)
    if method == "last-blocks":
        for stack in stacks:
            for module in (*stack.blocks[-last_blocks:], stack.norm):
                module.requires_grad_(True)
    for tensor in lora_tensors(body).values():
        tensor.requires_grad_(True)
    if (
        method in ("head", FEATURES)
        and isinstance(body, EncoderDecoder)
        or not any(p.requires_grad for p in model.parameters())
    ):
        raise RecipeError(
            f"method {method} has nothing to train here",
            known="full, last-blocks, lora",
            do="A language model's output is its token embedding; it has no head of its own.",
        )
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return Trainable(method, names, sum(sizes[name] for name in names), sum(sizes.values()), first_block)
