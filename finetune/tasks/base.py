"""What every task shares: which weights move, and the settings that follow from the weights.

A task is a module with these functions: ``prepare`` (rows into splits and a data card), ``build_model``,
``build_job`` (for the loop) and a way to run the trained model.
"""

from dataclasses import dataclass

from torch import nn

from finetune.errors import RecipeError
from finetune.models.gpt import GPT
from finetune.recipe import Train

SMALL = 40_000_000  # parameters below which all weights move


@dataclass(frozen=True)
class Trainable:
    """The part of a model that moves."""

    method: str
    names: list[str]
    parameters: int
    total: int
    first_block: int  # blocks below this one are frozen, and the embeddings with them

    def describe(self) -> str:
        """One line for the screen."""
        share = self.parameters / self.total
        return (f"{self.method}: {self.parameters:,} of {self.total:,} parameters move ({share:.1%}), "
                f"in {len(self.names)} tensors")


def choose_settings(asked: Train, parameters: int, pretrained: bool) -> tuple[Train, list[str]]:
    """Fill in method, learning rate and epochs where they were left open; each choice comes with its reason."""
    chosen, why = {}, []
    if asked.method == "auto":
        whole = not pretrained or parameters < SMALL
        chosen["method"] = "full" if whole else "last-blocks"
        reason = ("random weights have nothing to keep" if not pretrained else
                  "a small model moves whole" if whole else "a large model keeps its lower blocks")
        why.append(f"method {chosen['method']}: {reason}")
    method = chosen.get("method", asked.method)
    if asked.lr is None:
        chosen["lr"] = 1e-3 if not pretrained or method == "head" else 1e-4 if parameters >= SMALL else 5e-4
        why.append(f"lr {chosen['lr']:g}: usual for {method} on {'pretrained' if pretrained else 'random'} weights "
                   f"of {parameters / 1e6:.1f} M parameters")
    if asked.epochs is None:
        chosen["epochs"] = 5 if pretrained else 12
        why.append(f"epochs {chosen['epochs']}: {'a pretrained model' if pretrained else 'random weights'} "
                   f"with a stop after {asked.patience} validations without a gain")
    return asked.model_copy(update=chosen), why


def freeze(model: nn.Module, gpt: GPT, method: str, last_blocks: int) -> Trainable:
    """Let move what the method moves, and nothing else.

    full: everything. last-blocks: the top `last_blocks` blocks, the last norm and the head. head: the head alone.
    Whatever of `model` is not in `gpt` is the head, which always moves.
    """
    layers = len(gpt.blocks)
    first_block = {"full": 0, "last-blocks": max(layers - last_blocks, 0), "head": layers}[method]
    moving = [*gpt.blocks[first_block:]] + ([gpt.norm] if method != "head" else [])
    for parameter in gpt.parameters():
        parameter.requires_grad_(method == "full")
    for module in moving:
        module.requires_grad_(True)
    if not any(p.requires_grad for p in model.parameters()):
        raise RecipeError(f"method {method} trains nothing here", known="full, last-blocks",
                          do="A language model's output is its token embedding; it has no head of its own.")
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return Trainable(method, names, sum(sizes[name] for name in names), sum(sizes.values()), first_block)
