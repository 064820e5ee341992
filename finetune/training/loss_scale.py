"""Loss scaling for fp16, whose smallest number is 6e-8: the loss is multiplied so that small gradients do not vanish.

Micikevicius et al. 2018, arXiv:1710.03740, section 3.2, with the rule of torch.amp.GradScaler: the scale halves after a
step whose gradients are not finite, and doubles after `INTERVAL` steps in a row that are. All of it stays on the device.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finetune.records import Record
from finetune.training.parallel import local

FIRST = 2.0**16
GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000
MOST_SKIPPED = 40  # steps in a row, from any scale to less than any loss needs


@dataclass(frozen=True)
class ScaleState(Record):
    """The scale, and the steps since it changed, in a step checkpoint."""

    scale: float = FIRST
    steps: int = 0


class LossScale:
    """A scale that adapts to the gradients."""

    def __init__(self, device: torch.device):
        self.scale = torch.full((), FIRST, device=device)
        self.steps = torch.zeros((), device=device)  # finite ones since it changed

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the scale; a power of two, so that only what overflowed is changed."""
        torch._foreach_mul_([local(p.grad) for p in parameters if p.grad is not None], self.scale.reciprocal())

    @torch.no_grad()
    def update(self, failed: Tensor) -> None:
        """Adapt to a step. failed: 1 if its numbers were not finite and it was skipped, else 0."""
        grows = self.steps + 1 >= INTERVAL
        larger = torch.where(grows & (self.scale * GROWTH).isfinite(), self.scale * GROWTH, self.scale)
        self.scale.copy_(torch.where(failed > 0, self.scale * BACKOFF, larger))
        self.steps.copy_(torch.where((failed > 0) | grows, 0, self.steps + 1))

    def state(self) -> ScaleState:
        """The numbers from which ``load`` goes on; waits for the device."""
        return ScaleState(float(self.scale), int(self.steps))

    def load(self, state: ScaleState) -> None:
        """Go on from a state."""
        self.scale.fill_(state.scale)
        self.steps.fill_(state.steps)
