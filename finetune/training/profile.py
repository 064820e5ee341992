"""The time of an optimizer step by part, measured on a job's own batches."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from finetune.recipe import Train
from finetune.training.batching import micro_batches
from finetune.training.job import Job
from finetune.training.loop import set_threads
from finetune.training.optim import build_optimizers
from finetune.training.precision import AUTOCAST, autocast, tf32
from finetune.training.probe import batch_size

INSIDE = {"attention": "attention", "cross_attention": "attention", "mlp": "MLP"}  # module -> part of the forward pass
PARTS = ("batch", "attention", "MLP", "rest of the forward pass", "backward pass", "optimizer")
MATRIX = 1024  # size of the square matrices that are multiplied to measure this machine's speed


@dataclass
class Profile:
    """Seconds of each part over the measured steps, and the tokens of these steps, including padding."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    steps: int = 0
    tokens: int = 0
    flops: float = 0.0  # of the linear layers, per weight and token: 2 in the forward pass, 4 more if it is trained
    peak_flops: float = 0.0  # per second, in one large multiplication

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())


class Stopwatch:
    """Adds the time of a block to a part. On a GPU, the time ends when the GPU has finished."""

    def __init__(self, seconds: dict[str, float], device: torch.device):
        self.seconds, self.device = seconds, device

    def now(self) -> float:
        """The time in seconds, after the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block."""
        begun = self.now()
        yield
        self.seconds[name] += self.now() - begun


def profile_steps(job: Job[Any], settings: Train, batches: list[list[int]], device: torch.device) -> Profile:
    """Time the parts of a step on each batch; the first is a warmup. This changes the model's weights."""
    set_threads(settings.threads)
    model = job.model.to(device).train()
    optimizers = build_optimizers(model, settings.optimizer, settings.weight_decay, (settings.beta_1, settings.beta_2))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = settings.chosen_lr
    linear = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
    each = sum(weight.numel() * (6 if weight.requires_grad else 2) for weight in linear)
    found = Profile()
    for number, rows in enumerate(batches):
        if number == 1:
            found = Profile()
        with tf32(settings.tf32):
            _time_step(job, settings, rows, optimizers, Stopwatch(found.seconds, device))
        tokens = batch_size(rows, job.lengths, settings.tokens_per_pass).tokens
        found.steps += 1
        found.tokens += tokens
        found.flops += float(each * tokens)
    found.peak_flops = _matrix_speed(settings.precision, device)
    return found


def _time_step(
    job: Job[Any], settings: Train, rows: list[int], optimizers: list[torch.optim.Optimizer], watch: Stopwatch
) -> None:
    """One optimizer step, as in the training loop."""
    model, seconds = job.model, watch.seconds
    total = sum(job.weights[row] for row in rows)
    for part in micro_batches(rows, job.lengths, settings.tokens_per_pass):
        with watch.part("batch"):
            tensors = job.batch(part, 0) if job.epochs_differ else job.batch(part)
            batch = tuple(tensor.to(watch.device) for tensor in tensors)
        before = sum(seconds[name] for name in set(INSIDE.values()))
        with watch.part("rest of the forward pass"), _inside(model, watch), autocast(settings.precision, watch.device):
            loss = job.loss_sum(model, batch) / total
        seconds["rest of the forward pass"] -= sum(seconds[name] for name in set(INSIDE.values())) - before
        with watch.part("backward pass"):
            loss.backward()
    with watch.part("optimizer"):
        torch.nn.utils.clip_grad_norm_((p for p in model.parameters() if p.requires_grad), settings.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


@contextmanager
def _inside(model: nn.Module, watch: Stopwatch) -> Iterator[None]:
    """Time the attention and the MLP of every block in the forward passes of this block."""
    begun: dict[nn.Module, float] = {}

    def enter(module: nn.Module, inputs: Any) -> None:
        begun[module] = watch.now()

    def leave(part: str) -> Callable[..., None]:
        def done(module: nn.Module, inputs: Any, output: Any) -> None:
            watch.seconds[part] += watch.now() - begun[module]

        return done

    hooks = []
    for name, module in model.named_modules():
        if part := INSIDE.get(name.rpartition(".")[2]):
            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave(part))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _matrix_speed(precision: str, device: torch.device) -> float:
    """FLOP per second of one matrix product, the best of three."""
    matrix = torch.randn(MATRIX, MATRIX, device=device, dtype=AUTOCAST.get(precision, torch.float32))
    watch = Stopwatch({}, device)
    seconds = []
    for _ in range(3):
        begun = watch.now()
        matrix @ matrix  # noqa: B018  # only its time matters
        seconds.append(watch.now() - begun)
    return 2.0 * MATRIX**3 / max(min(seconds), 1e-9)
