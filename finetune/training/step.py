"""Take an optimizer step without waiting for the device: eagerly, captured as a CUDA graph, or compiled.

Loss, gradient norm and the check that both are finite stay on the device; the caller reads them when it needs them.
If they are not finite, neither this step nor any later one changes the weights. Under fp16, where large gradients
overflow, only this step is skipped. Benchmark: benchmarks/gpu.py.
"""

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from finetune.recipe import Train
from finetune.training.batching import micro_batches
from finetune.training.checkpointing import blocks_of, run_again
from finetune.training.device_rows import DeviceRows, padded_length, to_device
from finetune.training.job import Job
from finetune.training.loss_scale import LossScale
from finetune.training.parallel import is_sharded, local, whole
from finetune.training.precision import autocast

SHARE_OF_MEMORY = 0.25  # fraction of the device's free memory that the job's rows may take


class Steps(Protocol):
    """A way to take optimizer steps."""

    def take(self, rows: list[int], step: int, epoch: int, rate: float) -> Tensor:
        """Take one optimizer step. Returns its loss and its gradient norm before clipping: (2,) on the device.

        The loss is the mean over the rows of all processes. Under fp16, the scale of the loss follows: (3,).
        """
        ...


class EagerSteps:
    """Steps that PyTorch runs kernel by kernel, on any device and in any number of processes."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        job: Job,
        settings: Train,
        store: DeviceRows | None = None,
    ):
        self.accelerator, self.model, self.optimizers = accelerator, model, optimizers
        self.job, self.settings, self.store = job, settings, store
        self.device: torch.device = accelerator.device
        self.loss_sum: Callable[[nn.Module, tuple[Tensor, ...]], Tensor] = job.loss_sum
        self.sharded = is_sharded(model)
        self.blocks = blocks_of(model) if settings.checkpoint_blocks else []
        self.random = settings.dropout > 0 or (settings.method == "lora" and settings.lora_dropout > 0)
        self.loss_scale = LossScale(self.device) if settings.precision == "fp16" else None
        # 1 from the first step that was not finite on; under fp16, only until the next step
        self.failed = torch.zeros((), device=self.device)
        # AdamW reads the rate from the device, so that it can change between replays of a captured step
        self.rate = torch.zeros((), device=self.device) if self.device.type == "cuda" else None

    def take(self, rows: list[int], step: int, epoch: int, rate: float) -> Tensor:
        """As in ``Steps``."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        total = sum(self.job.weights[row] for row in rows)
        parts, weighed = self.parts(rows, rank, world)
        self.set_rate(rate)
        self.start()
        loss = torch.zeros((), device=self.device)
        for number, part in enumerate(parts):
            torch.manual_seed(_mix(self.settings.seed, step, number, rank))
            last = number == len(parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss += self.backward(self.batch(part, epoch), 1.0 / total if number < weighed else 0.0)
        found = self.update(loss)
        self.clear()
        return found

    def parts(self, rows: list[int], rank: int, world: int) -> tuple[list[list[int]], int]:
        """The micro-batches of process `rank` of `world`, and how many of them count; the rest repeat a row as filler.

        A process without rows runs one filler, because the processes sum their gradients. If the weights are sharded,
        all processes run equally many micro-batches, because each pass gathers weights from the others.
        """
        ordered = sorted(rows, key=lambda row: (self.job.lengths[row], row))
        split = [
            micro_batches(ordered[other::world], self.job.lengths, self.settings.tokens_per_pass)
            for other in range(world)
        ]
        most = max(map(len, split)) if self.sharded else 1
        return split[rank] + [rows[:1]] * (most - len(split[rank])), len(split[rank])

    def clear(self) -> None:
        """Delete the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def start(self) -> None:
        """Set training mode, also in parts that a validation or loading left in evaluation mode."""
        self.model.train()

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of every optimizer."""
        if self.rate is not None:
            self.rate.fill_(rate)
        for optimizer in self.optimizers:
            on_device = self.rate is not None and can_skip(optimizer)
            for group in optimizer.param_groups:
                group["lr"] = self.rate if on_device else rate

    def padded(self, rows: list[int]) -> tuple[int, ...]:
        """The lengths to which a batch of these rows is padded on the device: few distinct ones, as captured steps need."""
        assert self.store is not None, "only batches from the device are padded so"
        pairs = zip(self.store.longest(rows), self.store.most, strict=True)
        return tuple(min(padded_length(length), most) for length, most in pairs)

    def batch(self, rows: list[int], epoch: int) -> tuple[Tensor, ...]:
        """A batch on the device."""
        if self.store is not None:
            return self.store.take(to_device(torch.tensor(rows), self.device), self.padded(rows))
        tensors = self.job.batch(rows, epoch) if self.job.epochs_differ else self.job.batch(rows)
        return tuple(to_device(tensor, self.device) for tensor in tensors)

    def backward(self, tensors: tuple[Tensor, ...], scale: float | Tensor) -> Tensor:
        """Accumulate the gradient of `scale` times a batch's summed loss. Returns that product."""
        with autocast(self.settings.precision, self.device), run_again(self.blocks, self.random):
            value = self.loss_sum(self.model, tensors) * scale
        scaled = value if self.loss_scale is None else value * self.loss_scale.scale
        self.accelerator.backward(scaled * self.accelerator.num_processes)  # averaged over the processes
        return value.detach()

    def update(self, loss: Tensor) -> Tensor:
        """Clip the gradient and step, unless it or the loss is not finite. Returns what ``Steps.take`` returns."""
        moving = [p for p in self.model.parameters() if p.requires_grad]
        if self.loss_scale is not None:
            self.loss_scale.unscale(moving)
        norm = whole(self.accelerator.clip_grad_norm_(moving, self.settings.clip_norm))
        mean = self.accelerator.reduce(loss, reduction="sum")
        found = torch.stack((mean, norm))
        failed = (~found.isfinite().all()).float()
        self.failed.copy_(torch.maximum(self.failed, failed) if self.loss_scale is None else failed)
        for optimizer in self.optimizers:
            step_unless(self.failed, optimizer, goes_on=self.loss_scale is not None)
        if self.loss_scale is not None:
            found = torch.cat((found, self.loss_scale.scale[None]))
            self.loss_scale.update(self.failed)
        return found


def can_skip(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this is a fused AdamW, whose kernel reads a skip flag and the learning rate from the device."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)


@torch.no_grad()
def step_unless(failed: Tensor, optimizer: torch.optim.Optimizer, goes_on: bool = False) -> None:
    """Step if `failed`, a scalar on the device, is 0; change no weight if it is 1. This does not wait for the device.

    goes_on: training continues after a failed step, so the moments must not change either.
    """
    if can_skip(optimizer):
        optimizer.found_inf = failed  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
        optimizer.step()
        return
    moving = [local(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    before = [p.clone() for p in moving]
    state = optimizer.state if goes_on else {}
    moments = {key: {name: own.clone() for name, own in kept.items()} for key, kept in state.items()}
    optimizer.step()
    for parameter, old in zip(moving, before, strict=True):
        parameter.copy_(torch.where(failed > 0, old, parameter))
    for key, kept in state.items():
        for name, own in kept.items():  # moments start at 0
            own.copy_(torch.where(failed > 0, moments.get(key, {}).get(name, 0.0), own))


def keep_rows(job: Job, device: torch.device) -> DeviceRows | None:
    """The job's rows on the device, if it is a GPU and they fit."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return DeviceRows.of(job.batch, len(job.lengths), job.pads, device, SHARE_OF_MEMORY * free)


def _mix(*numbers: int) -> int:
    digest = hashlib.sha256("/".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
