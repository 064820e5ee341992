"""Loss scaling for fp16, whose smallest number is 6e-8: multiply the loss, so that small gradients do not underflow.

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
MOST_SKIPPED = 40  # in a row: halving this often brings any scale below what any loss needs


@dataclass(frozen=True)
class ScaleState(Record):
    """The state of the scaler in a step checkpoint: the scale, and the steps since it changed."""

    scale: float = FIRST
    steps: int = 0


class LossScale:
    """A scale that adapts to the gradients."""

    def __init__(self, device: torch.device):
        self.scale = torch.full((), FIRST, device=device)
        self.steps = torch.zeros((), device=device)  # finite steps since the scale changed

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the scale. It is a power of two, so the division is exact."""
        torch._foreach_mul_([local(p.grad) for p in parameters if p.grad is not None], self.scale.reciprocal())

    @torch.no_grad()
    def update(self, failed: Tensor) -> None:
        """Adapt the scale after a step. failed: 1 if the gradients were not finite and the step was skipped, else 0."""
        grows = self.steps + 1 >= INTERVAL
        larger = torch.where(grows & (self.scale * GROWTH).isfinite(), self.scale * GROWTH, self.scale)
        self.scale.copy_(torch.where(failed > 0, self.scale * BACKOFF, larger))
        self.steps.copy_(torch.where((failed > 0) | grows, 0, self.steps + 1))

    def state(self) -> ScaleState:
        """The state for ``load``; reading it waits for the device."""
        return ScaleState(float(self.scale), int(self.steps))

    def load(self, state: ScaleState) -> None:
        """Restore a state."""
        self.scale.fill_(state.scale)
        self.steps.fill_(state.steps)
