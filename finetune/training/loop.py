"""The only training loop. It handles rows, batches and losses, and is independent of the task."""

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from finetune.console import Advance, progress, say, unseen, warn
from finetune.errors import Interrupted, RunError, TrainingError
from finetune.files import atomic_write, open_append, read_json, write_json, writing
from finetune.recipe import FSDP, Train
from finetune.records import Trained
from finetune.training import resume
from finetune.training.batching import Batches, steps_per_epoch
from finetune.training.job import Job
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
    threads = set_threads(settings.threads)
    accelerator, optimizers, first = _start(job, settings)
    device: torch.device = accelerator.device
    root = directory / "checkpoints"
    here = (accelerator.num_processes, threads, device.type, settings.precision)
    identity = identity | dict(zip(MACHINE, map(str, here), strict=True))
    state = _resume(root, job.model, optimizers, identity)
    model = job.model if is_sharded(job.model) else accelerator.prepare(job.model)
    per_epoch, steps = count_steps(len(job.lengths), settings, job.groups)
    batches = Batches(job.lengths, settings.batch_size, settings.seed, job.groups)
    eager = EagerSteps(accelerator, model, optimizers, job, settings, keep_rows(job, device))
    if eager.loss_scale and state.loss_scale:
        eager.loss_scale.load(ScaleState.from_json(state.loss_scale, root))
    stepper = choose_steps(eager, settings.step, steps - state.step)
    lr, evaluation_steps = settings.chosen_lr, validated_steps(per_epoch, steps, settings.evaluations_per_epoch)
    log = _Log(directory / "train.jsonl", state.step, writes=accelerator.is_main_process)
    tracking = Tracking(accelerator, settings, directory, state.step)
    start, saved_at, begun = time.monotonic(), time.monotonic(), state.seconds
    saved_step = state.step

    def keep(entry: dict) -> None:
        log.write(entry)
        tracking.write(entry)

    def note(taken: Taken, loss: float, norm: float, scale: float | None = None) -> None:
        finite = math.isfinite(loss) and math.isfinite(norm)
        if not finite and (scale is None or state.skipped_in_a_row + 1 == MOST_SKIPPED):
            named = ", ".join(map(job.name_row, taken.rows[:8]))
            raise _not_finite(
                f"the loss is not finite at step {taken.step}"
                if scale is None
                else f"the gradients of {MOST_SKIPPED} steps in a row are not finite in fp16, up to step {taken.step}",
                root,
                f"loss {loss}, gradient norm {norm}, learning rate {taken.rate:g}, rows {named}",
                "Lower train.lr" if scale is None else "Give train.precision=fp32, lower train.lr",
            )
        state.skipped += not finite
        state.skipped_in_a_row = 0 if finite else state.skipped_in_a_row + 1
        if not finite and accelerator.is_main_process:
            say(f"  step {taken.step}: skipped, its gradients are not finite in fp16 with a loss scale of {scale:g}")
        keep(
            {
                "step": taken.step,
                "epoch": round(taken.step / per_epoch, 4),
                "loss": loss if finite else None,
                "lr": taken.rate,
                "grad_norm": norm if finite else None,
                "rows": len(taken.rows),
                "tokens": sum(job.lengths[row] for row in taken.rows),
                "seconds": round(begun + time.monotonic() - start, 3),
            }
            | ({} if scale is None else {"loss_scale": scale, "skipped": not finite})
        )

    waits = device.type == "cuda" and accelerator.num_processes == 1  # several processes must fail at the same step
    readings = Readings(READ_SECONDS if waits else 0.0, note)

    def save() -> None:
        nonlocal saved_at, saved_step
        readings.read()
        if saved_step == state.step:
            return
        state.seconds = begun + time.monotonic() - start
        state.loss_scale = eager.loss_scale.state().to_json() if eager.loss_scale else {}
        writes = accelerator.is_main_process
        if writes or is_sharded(job.model):
            with first.save():
                resume.save_step(root, state.step, job.model, optimizers, state.__dict__, writes)
        if writes:
            resume.prune(root, state.step, state.best["step"] if state.best else None)
        saved_at, saved_step = time.monotonic(), state.step

    with contextlib.closing(tracking), StopSignal() as stop, _bar(accelerator, steps, state.step) as advance:
        while state.step < steps and not state.stopped:
            rate = learning_rate(
                state.step,
                steps,
                lr,
                settings.warmup_fraction,
                settings.min_lr_fraction,
                settings.schedule,
                settings.decay_fraction,
            )
            rows = batches.at(state.step)
            if job.read_ahead and (ahead := batches.ahead(state.step, steps)):
                job.read_ahead(ahead)
            with first.step(rows):
                numbers = stepper.take(rows, state.step, state.step // per_epoch, rate)
            if job.advice and len(first.seconds) == COUNTED + 1 and accelerator.is_main_process:
                _advise(job, first, make_plan(job, settings, checkpoint_seconds, set_up_seconds))
                job = replace(job, advice="")
            state.step += 1
            state.tokens += sum(job.lengths[row] for row in rows)
            readings.add(Taken(state.step, rows, rate, numbers))
            if state.step in evaluation_steps:
                readings.read()
                found = validate(job, settings, device)
                if not all(map(math.isfinite, found.values())):
                    raise _not_finite(
                        f"validation metrics are not finite after step {state.step}",
                        root,
                        f"{found}, learning rate {rate:g}",
                    )
                improved = note_best(state, settings, found)
                keep(
                    {
                        "step": state.step,
                        "epoch": round(state.step / per_epoch, 4),
                        "validation": found,
                        "best": improved,
                    }
                )
                if accelerator.is_main_process:
                    shown = "  ".join(f"{name} {value:.4f}" for name, value in found.items())
                    say(f"  epoch {state.step / per_epoch:.3g}: validation {shown}{'  (best)' if improved else ''}")
                state.stopped = state.worse >= settings.patience
                save()
            stopping = _agree(accelerator, stop.asked)
            if stopping or time.monotonic() - saved_at >= checkpoint_seconds:
                save()
            advance(1, f"loss {readings.loss:.4f}")
            if stopping:
                raise Interrupted(f"stopped at step {state.step} of {steps}; the state is saved")

    if accelerator.is_main_process:
        write_json(root / "best.json", state.best)
    assert state.best is not None, "the last step is validated"
    return Trained(
        steps=state.step,
        planned_steps=steps,
        epochs=round(state.step / per_epoch, 4),
        rows=len(job.lengths),
        tokens=state.tokens,
        seconds=round(state.seconds, 3),
        tokens_per_second=round(state.tokens / max(state.seconds, 1e-9), 1),
        best_step=state.best["step"],
        best_value=state.best["value"],
        metric=settings.metric,
        stopped_early=state.stopped and state.step < steps,
        processes=accelerator.num_processes,
        threads=threads,
        device=device.type,
        peak_bytes=max(first.peak_before, peak_bytes(device)),
        estimate=estimate(first, make_plan(job, settings, checkpoint_seconds, set_up_seconds)),
        skipped_steps=state.skipped,
    )


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


def _agree(accelerator: Accelerator, asked: bool) -> bool:
    """True on every process once any of them was asked to stop."""
    if accelerator.num_processes == 1:
        return asked
    flag = torch.tensor(float(asked), device=accelerator.device)
    return bool(accelerator.reduce(flag, reduction="sum").item())


def _bar(accelerator: Accelerator, steps: int, done: int) -> AbstractContextManager[Advance]:
    if accelerator.is_main_process:
        return progress("training", steps, unit="steps", done=done)
    return contextlib.nullcontext(unseen)


def _usable_cores() -> Collection[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


@dataclass(frozen=True)
class Taken:
    """An optimizer step whose numbers may still be on the device."""

    step: int  # counted from 1
    rows: list[int]
    rate: float
    numbers: Tensor  # what ``Steps.take`` returns


class Readings:
    """Reads the numbers of several steps together, so that the device does not wait for each of them."""

    def __init__(self, every_seconds: float, note: Callable[..., None]):
        self.every_seconds, self.note = every_seconds, note
        self.waiting: list[Taken] = []
        self.read_at, self.loss = time.monotonic(), math.nan

    def add(self, taken: Taken) -> None:
        """Add a step; read all that wait if it is time."""
        self.waiting.append(taken)
        if time.monotonic() - self.read_at >= self.every_seconds:
            self.read()

    def read(self) -> None:
        """Read all that wait, and pass each to `note` in order."""
        waiting, self.waiting = self.waiting, []
        if not waiting:
            return
        for taken, numbers in zip(waiting, torch.stack([own.numbers for own in waiting]).tolist(), strict=True):
            self.note(taken, *numbers)
            self.loss = numbers[0]
        self.read_at = time.monotonic()


class _Log:
    """``train.jsonl``: one line per step or validation; on resume, lines after the resumed step are dropped."""

    def __init__(self, path: Path, step: int, writes: bool):
        self.path, self.writes = path, writes
        if writes:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            with atomic_write(path) as file:
                file.writelines(line + "\n" for line in lines if _step_of(line) <= step)

    def write(self, entry: dict) -> None:
        if self.writes:
            with writing(self.path), open_append(self.path) as file:
                file.write(json.dumps(entry) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # a line cut short by a crash
        return math.inf


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
