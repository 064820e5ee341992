"""The only training loop. It handles rows, batches and losses, and is independent of the task."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import nn

from finetune.console import Advance, progress, say, unseen, warn
from finetune.errors import Interrupted, RunError, TrainingError
from finetune.files import read_json, write_json
from finetune.recipe import FSDP, Train
from finetune.records import Trained
from finetune.training import resume
from finetune.training.batching import Batches, steps_per_epoch
from finetune.training.job import Job
from finetune.training.log import Log, Readings, Taken
from finetune.training.loss_scale import MOST_SKIPPED, ScaleState
from finetune.training.optim import build_optimizers, learning_rate
from finetune.training.parallel import is_sharded, shard
from finetune.training.precision import autocast, device_type, tf32
from finetune.training.probe import COUNTED, FirstSteps, Plan, batch_size, estimate, peak_bytes
from finetune.training.step import EagerSteps, keep_rows
from finetune.training.step_plan import choose_steps
from finetune.training.tracking import Tracking

MACHINE = ("processes", "threads", "device", "precision")  # may change within a run, at the cost of bit-exactness
CHECKPOINT_SECONDS = 60.0  # between checkpoints within an epoch
LONG_SECONDS = 600.0  # estimated for a training, above which a job's advice is said
READ_SECONDS = 0.5  # between two readings of the losses on a GPU, for the bar and the log

Handler = Callable[[int, FrameType | None], Any] | int | None  # a signal handler


@dataclass
class State:
    """The non-tensor state in a step checkpoint."""

    step: int = 0
    best: dict[str, Any] | None = None
    worse: int = 0  # validations since the best
    stopped: bool = False
    seconds: float = 0.0
    tokens: int = 0
    skipped: int = 0  # steps under fp16 whose gradients were not finite
    skipped_in_a_row: int = 0
    loss_scale: dict = field(default_factory=dict)
    identity: dict = field(default_factory=dict)


def train(
    job: Job,
    settings: Train,
    directory: Path,
    identity: dict[str, str],
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    set_up_seconds: float = 0.0,
) -> Trained:
    """Train `job` with `settings` (method, lr and epochs resolved), resuming from the newest checkpoint.

    directory: contains ``checkpoints/`` and ``train.jsonl``. identity: hashes that a resumed run must match.
    set_up_seconds: time already spent on setup, for the estimate.
    Raises TrainingError for a non-finite loss, RunError for checkpoints of another run, and Interrupted after SIGINT
    or SIGTERM once the state is saved.
    """
    training = Training(job, settings, directory, identity, checkpoint_seconds, set_up_seconds)
    training.run()
    return training.result()


class Training:
    """A training in progress. All processes that share it hold the same state; the first one writes and prints."""

    def __init__(
        self,
        job: Job,
        settings: Train,
        directory: Path,
        identity: dict[str, str],
        checkpoint_seconds: float,
        set_up_seconds: float,
    ):
        self.job, self.settings, self.root = job, settings, directory / "checkpoints"
        self.checkpoint_seconds, self.set_up_seconds = checkpoint_seconds, set_up_seconds
        self.threads = set_threads(settings.threads)
        self.accelerator, self.optimizers, self.first = _start(job, settings)
        self.device: torch.device = self.accelerator.device
        self.writes, processes = self.accelerator.is_main_process, self.accelerator.num_processes
        here = (processes, self.threads, self.device.type, settings.precision)
        identity = identity | dict(zip(MACHINE, map(str, here), strict=True))
        self.state = _resume(self.root, job.model, self.optimizers, identity)

        self.per_epoch, self.steps = count_steps(len(job.lengths), settings, job.groups)
        self.batches = Batches(job.lengths, settings.batch_size, settings.seed, job.groups)
        self.validated = validated_steps(self.per_epoch, self.steps, settings.evaluations_per_epoch)
        model = job.model if is_sharded(job.model) else self.accelerator.prepare(job.model)
        eager = EagerSteps(self.accelerator, model, self.optimizers, job, settings, keep_rows(job, self.device))
        self.loss_scale = eager.loss_scale
        if self.loss_scale and self.state.loss_scale:
            self.loss_scale.load(ScaleState.from_json(self.state.loss_scale, self.root))
        self.stepper = choose_steps(eager, settings.step, self.steps - self.state.step)

        self.log = Log(directory / "train.jsonl", self.state.step, self.writes)
        self.tracking = Tracking(self.accelerator, settings, directory, self.state.step)
        waits = self.device.type == "cuda" and processes == 1  # several processes must fail at the same step
        self.readings = Readings(READ_SECONDS if waits else 0.0, self.note_step)
        self.begun_step = self.saved_step = self.state.step
        self.saved_at = time.monotonic()
        self.begun_at = self.saved_at - self.state.seconds  # as if it had never been stopped

    def run(self) -> None:
        """Take steps until the last one, until patience ends, or until a signal: then raises Interrupted."""
        state = self.state
        with contextlib.closing(self.tracking), StopSignal() as stop, self.bar() as advance:
            while state.step < self.steps and not state.stopped:
                self.take_step()
                if state.step in self.validated:
                    self.validate()
                    self.save()
                due = time.monotonic() - self.saved_at >= self.checkpoint_seconds
                stopping, due = _agree(self.accelerator, stop.asked, due)
                if stopping or due:
                    self.save()
                advance(1, f"loss {self.readings.loss:.4f}")
                if stopping:
                    raise Interrupted(f"stopped at step {state.step} of {self.steps}; the state is saved")
        if self.writes:
            write_json(self.root / "best.json", state.best)

    def take_step(self) -> None:
        """Take one optimizer step. Its loss may stay on the device for a while."""
        job, settings, state = self.job, self.settings, self.state
        rows = self.batches.at(state.step)
        if job.read_ahead and (ahead := self.batches.ahead(state.step, self.steps)):
            job.read_ahead(ahead)
        self.rate = learning_rate(
            state.step,
            self.steps,
            settings.chosen_lr,
            settings.warmup_fraction,
            settings.min_lr_fraction,
            settings.schedule,
            settings.decay_fraction,
        )
        with self.first.step(rows):
            numbers = self.stepper.take(rows, state.step, state.step // self.per_epoch, self.rate)
        state.step += 1
        state.tokens += sum(job.lengths[row] for row in rows)
        if job.advice and state.step == self.begun_step + COUNTED + 1 and self.writes:
            _advise(job, self.first, self.plan())
        self.readings.add(Taken(state.step, rows, self.rate, numbers))

    def note_step(self, taken: Taken, loss: float, norm: float, scale: float | None = None) -> None:
        """Log a step. Raises TrainingError for a loss or gradient norm that is not finite; see `skip`."""
        finite = math.isfinite(loss) and math.isfinite(norm)
        self.state.skipped += not finite
        self.state.skipped_in_a_row = 0 if finite else self.state.skipped_in_a_row + 1
        if not finite:
            self.skip(taken, f"loss {loss}, gradient norm {norm}", scale)
        entry = {
            "loss": loss if finite else None,
            "lr": taken.rate,
            "grad_norm": norm if finite else None,
            "rows": len(taken.rows),
            "tokens": sum(self.job.lengths[row] for row in taken.rows),
            "seconds": round(self.seconds(), 3),
        }
        self.write(taken.step, entry if scale is None else entry | {"loss_scale": scale, "skipped": not finite})

    def skip(self, taken: Taken, got: str, scale: float | None) -> None:
        """Say that fp16 skipped a step. Raises TrainingError after too many in a row, and in every other precision."""
        got += f", learning rate {taken.rate:g}, rows {', '.join(map(self.job.name_row, taken.rows[:8]))}"
        if scale is None:
            raise _not_finite(f"the loss is not finite at step {taken.step}", self.root, got)
        if self.state.skipped_in_a_row == MOST_SKIPPED:
            raise _not_finite(
                f"the gradients of {MOST_SKIPPED} steps in a row are not finite in fp16, up to step {taken.step}",
                self.root,
                got,
                "Give train.precision=fp32, lower train.lr",
            )
        if self.writes:
            say(f"  step {taken.step}: skipped, its gradients are not finite in fp16 with a loss scale of {scale:g}")

    def validate(self) -> None:
        """Validate the model, and log whether it is the best so far. Stops the training when patience ends."""
        self.readings.read()
        state, found = self.state, validate(self.job, self.settings, self.device)
        if not all(map(math.isfinite, found.values())):
            got = f"{found}, learning rate {self.rate:g}"
            raise _not_finite(f"validation metrics are not finite after step {state.step}", self.root, got)
        improved = note_best(state, self.settings, found)
        state.stopped = state.worse >= self.settings.patience
        self.write(state.step, {"validation": found, "best": improved})
        if self.writes:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in found.items())
            say(f"  epoch {state.step / self.per_epoch:.3g}: validation {shown}{'  (best)' if improved else ''}")

    def save(self) -> None:
        """Write a checkpoint, unless this step already has one."""
        self.readings.read()
        state = self.state
        if self.saved_step == state.step:
            return
        state.seconds = self.seconds()
        state.loss_scale = self.loss_scale.state().to_json() if self.loss_scale else {}
        if self.writes or is_sharded(self.job.model):
            with self.first.save():
                resume.save_step(self.root, state.step, self.job.model, self.optimizers, state.__dict__, self.writes)
        if self.writes:
            resume.prune(self.root, state.step, state.best["step"] if state.best else None)
        self.saved_at, self.saved_step = time.monotonic(), state.step

    def result(self) -> Trained:
        """The outcome, after `run`."""
        state = self.state
        assert state.best is not None, "the last step is validated"
        return Trained(
            steps=state.step,
            planned_steps=self.steps,
            epochs=round(state.step / self.per_epoch, 4),
            rows=len(self.job.lengths),
            tokens=state.tokens,
            seconds=round(state.seconds, 3),
            tokens_per_second=round(state.tokens / max(state.seconds, 1e-9), 1),
            best_step=state.best["step"],
            best_value=state.best["value"],
            metric=self.settings.metric,
            stopped_early=state.stopped and state.step < self.steps,
            processes=self.accelerator.num_processes,
            threads=self.threads,
            device=self.device.type,
            peak_bytes=max(self.first.peak_before, peak_bytes(self.device)),
            estimate=estimate(self.first, self.plan()),
            skipped_steps=state.skipped,
        )

    def seconds(self) -> float:
        """Training time so far, including the time before a resume."""
        return time.monotonic() - self.begun_at

    def write(self, step: int, entry: dict[str, Any]) -> None:
        """Add a line to the log, and send it to the tracker."""
        line = {"step": step, "epoch": round(step / self.per_epoch, 4)} | entry
        self.log.write(line)
        self.tracking.write(line)

    def plan(self) -> Plan:
        """The amount of training, for the estimate."""
        return make_plan(self.job, self.settings, self.checkpoint_seconds, self.set_up_seconds)

    def bar(self) -> AbstractContextManager[Advance]:
        """The progress bar of the first process."""
        if self.writes:
            return progress("training", self.steps, unit="steps", done=self.state.step)
        return contextlib.nullcontext(unseen)


def try_steps(job: Job, settings: Train, batches: list[list[int]], directory: Path) -> FirstSteps:
    """Measure a validation, optimizer steps on these batches and a checkpoint; this changes the model's weights."""
    set_threads(settings.threads)
    accelerator, optimizers, first = _start(job, settings)
    validate(job, settings, accelerator.device)  # to measure its memory
    stepper = EagerSteps(accelerator, accelerator.prepare(job.model), optimizers, job, settings)
    for step, rows in enumerate(batches):
        with tf32(settings.tf32), first.step(rows):
            stepper.take(rows, step, 0, settings.chosen_lr)
    with first.save():
        resume.save_step(directory, 0, job.model, optimizers, {})
    return first


def make_plan(job: Job, settings: Train, checkpoint_seconds: float, set_up_seconds: float) -> Plan:
    """The amount of training for the job under `settings`."""
    per_epoch, steps = count_steps(len(job.lengths), settings, job.groups)
    batches = Batches(job.lengths, settings.batch_size, settings.seed, job.groups).first()[:steps]
    return Plan(
        [batch_size(rows, job.lengths, settings.tokens_per_pass) for rows in batches],
        steps,
        len(validated_steps(per_epoch, steps, settings.evaluations_per_epoch)),
        job.validation_tokens,
        sum(p.numel() * p.element_size() for p in job.model.parameters() if p.requires_grad),
        checkpoint_seconds,
        set_up_seconds,
    )


def _advise(job: Job, first: FirstSteps, plan: Plan) -> None:
    """Say the job's advice if the training will be long."""
    found = estimate(first, plan)
    if found is not None and found.seconds > LONG_SECONDS:
        say(f"  about {found.seconds / 60:.0f} minutes of training; {job.advice}")


def count_steps(rows: int, settings: Train, groups: Sequence[int] = ()) -> tuple[int, int]:
    """Optimizer steps per epoch and in total. groups: a job's."""
    per_epoch = steps_per_epoch(rows, settings.batch_size, groups)
    all_epochs = per_epoch * settings.chosen_epochs
    return per_epoch, min(all_epochs, settings.max_steps or all_epochs)


def validated_steps(per_epoch: int, steps: int, evaluations_per_epoch: int) -> set[int]:
    """The steps after which the model is validated: evenly over each epoch, and the last one."""
    parts = range(1, steps * evaluations_per_epoch // per_epoch + 1)
    return {max(round(per_epoch * part / evaluations_per_epoch), 1) for part in parts} | {steps}


def _start(job: Job, settings: Train) -> tuple[Accelerator, list[torch.optim.Optimizer], FirstSteps]:
    """The model on its device, with fresh optimizers."""
    # cpu=True allows several CPU processes; autocast is ours, so that it covers the frozen blocks too.
    accelerator = Accelerator(cpu=device_type() == "cpu", mixed_precision="no")
    job.model.to(accelerator.device)
    if settings.parallel == FSDP and accelerator.num_processes > 1:
        shard(job.model, accelerator.device)
    optimizers = build_optimizers(
        job.model, settings.optimizer, settings.weight_decay, (settings.beta_1, settings.beta_2)
    )
    return accelerator, optimizers, FirstSteps(job.lengths, settings.tokens_per_pass, accelerator.device)


def set_threads(asked: int) -> int:
    """Use this many CPU threads; 0 means all cores, or torchrun's setting per process. Returns the number."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # OpenMP allows a list
    count = asked or (int(given) if given.isdecimal() else 0) or len(_usable_cores())
    torch.set_num_threads(count)
    return count


def validate(job: Job, settings: Train, device: torch.device) -> dict[str, float]:
    """The metrics of the validation rows; several processes share the rows, and all get the same metrics."""
    job.model.eval()
    with torch.no_grad(), autocast(settings.precision, device):
        return job.validate(job.model)


def note_best(state: State, settings: Train, found: dict[str, float]) -> bool:
    """Keep this validation in the state if it is the best so far; returns whether it is."""
    sign = -1 if settings.metric == "log_loss" else 1

    def key(values: dict[str, Any]) -> tuple[float, float]:
        return sign * values["value"], -values["log_loss"]

    entry = {
        "step": state.step,
        "metric": settings.metric,
        "value": found[settings.metric],
        "log_loss": found["log_loss"],
    }
    improved = state.best is None or key(entry) > key(state.best)
    state.best, state.worse = (entry, 0) if improved else (state.best, state.worse + 1)
    return improved


def _resume(root: Path, model: nn.Module, optimizers: list, identity: dict) -> State:
    directory = resume.newest(root) if root.is_dir() else None
    if directory is None:
        return State(identity=identity)
    state = State(**read_json(directory / "state.json"))
    changed = [key for key in identity if state.identity.get(key) != identity[key]]
    others = [key for key in changed if key not in MACHINE]
    if others:
        raise RunError(
            f"{root}: these checkpoints belong to another run",
            got="changed: " + ", ".join(others),
            do="Give another --name, or train again with --from train.",
        )
    if changed:
        said = ", ".join(f"{key} {identity[key]} instead of {state.identity.get(key)}" for key in changed)
        warn(f"resuming with {said}; the last bits may differ from an uninterrupted run")
        state.identity = identity
    resume.load_weights(directory, model)
    resume.load_optimizers(directory, model, optimizers)
    say(f"resuming from {directory.name}")
    return state


def _not_finite(what: str, root: Path, got: str, first: str = "Lower train.lr") -> TrainingError:
    good = sorted(path.name for path in root.glob("step-*"))
    return TrainingError(
        what,
        got=got,
        known=f"last good checkpoint: {good[-1] if good else 'none yet'}",
        do=f"{first}, or inspect the rows; a step with a non-finite gradient does not change the weights.",
    )


def _agree(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """For each flag, whether any process raised it: the same on all, so that they stop and save at the same step."""
    if accelerator.num_processes == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
    return [count > 0 for count in accelerator.reduce(raised, reduction="sum").tolist()]


def _usable_cores() -> Collection[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


class StopSignal:
    """Catches SIGINT and SIGTERM so that the step finishes and is saved; a second one is handled as if this were not here."""

    def __init__(self) -> None:
        self.asked = False
        self.previous: dict[int, Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)
