"""``--dry-run``: a run's plan, and its time and memory as measured on a few real steps.

Everything happens in a temporary folder; nothing is downloaded. The steps are the run's own: same rows, weights,
precision and threads. The batch that needs the most memory is the warm-up; then one batch per third, by length, is timed.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from finetune.checkpoints.sources import is_made_in_run, locate_weights
from finetune.console import say
from finetune.errors import FetchError, Interrupted
from finetune.hub import fetch
from finetune.hub.registry import weights_registry
from finetune.machine import reset_peak_memory
from finetune.models.gpt import GPT, GPTConfig
from finetune.recipe import Recipe
from finetune.records import Estimate
from finetune.report.blocks import bytes_text, seconds_text
from finetune.run import Run
from finetune.stages import download, prepare, verify
from finetune.tasks.base import TrainingSetup, task_of
from finetune.tasks.setup import assemble, build
from finetune.tokenizer import Tokenizer
from finetune.training.loop import CHECKPOINT_SECONDS, count_steps, make_plan, try_steps
from finetune.training.precision import device_type
from finetune.training.probe import crowded, estimate

NAMES = 8  # trained tensors listed on the screen


def dry_run(recipe: Recipe, processes: int, plans: list[tuple[str, Recipe]]) -> None:
    """Print the plan and the estimates; if weights or data are missing, only what is known without them.

    plans: the run's trainings by name; they differ in settings, not in weights or data.
    """
    with _no_resuming(), _offline(), tempfile.TemporaryDirectory(prefix="finetune-dry-run-") as folder:
        missing = _missing_data(recipe), _missing_weights(recipe)
        for line in filter(None, missing):
            say(line)
        if any(missing):
            for label, own in plans:
                if label:
                    say(label)
                _plan_only(own, with_data=not missing[0])
            return
        run = Run(Path(folder))
        for number, stage in enumerate((download, verify, prepare), 1):
            run.finish(number, stage.__name__.rpartition(".")[2], "", [], stage.run(recipe, run), 0.0)
        for label, own in plans:
            if label:
                say(label)
            _probe(own, run, processes)


@contextmanager
def _no_resuming() -> Iterator[None]:
    """An interrupted dry run leaves nothing to continue from."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted("interrupted; a dry run saves nothing, so the same command starts over") from stop


@contextmanager
def _offline() -> Iterator[None]:
    """Disable downloads inside the block; a damaged file, for example, is not replaced."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    fetch.network_available.cache_clear()
    try:
        yield
    finally:
        os.environ.pop("HF_HUB_OFFLINE")
        os.environ |= {} if before is None else {"HF_HUB_OFFLINE": before}
        fetch.network_available.cache_clear()


def _missing_data(recipe: Recipe) -> str:
    row = task_of(recipe).registry_row(recipe)
    if row is None or fetch.find_data(row):
        return ""
    return f"data: {row.name} is not on this machine; the run downloads {bytes_text(row.spec.size_bytes)}"


def _missing_weights(recipe: Recipe) -> str:
    """A line if the weights are not on this machine. Unknown names are errors, as in the run."""
    if is_made_in_run(recipe.weights):
        return ""
    row = None if Path(recipe.weights).is_dir() else weights_registry().get(recipe.weights)
    if row is not None:
        size = sum(spec.size_bytes or 0 for spec in row.files.values())
        known = all(spec.size_bytes is not None for spec in row.files.values())
        size = size if known else 4 * (row.parameters or 0)
        return (
            ""
            if fetch.find_weights(row)
            else (
                f"weights: {row.name} are not on this machine; the run downloads "
                + (f"{'' if known else 'about '}{bytes_text(size)}" if size else "them")
            )
        )
    try:
        locate_weights(recipe.weights)
    except FetchError:
        return f"weights: {recipe.weights} are not on this machine; the run downloads them"
    return ""


def _plan_only(recipe: Recipe, with_data: bool) -> None:
    """What is known from the model's shape and the data when the weights are missing."""
    row, task = weights_registry().get(recipe.weights), task_of(recipe)
    prepared = task.preview(recipe, row.context if row else 1024) if with_data else None
    if row is not None and prepared is not None:
        with torch.device("meta"):  # shapes without storage
            gpt = GPT(
                GPTConfig(
                    vocab_size=row.vocab_size, context=row.context, width=row.width, layers=row.layers, heads=row.heads
                )
            )
            parameters = sum(p.numel() for p in gpt.parameters())
            setup = assemble(task, recipe, gpt, Tokenizer.of_bytes(), parameters, prepared)  # no text is read
        _say_plan(setup)
        rows = prepared.training_rows(row.context)
        say(f"steps: {count_steps(rows, setup.settings)[1]:,} of {setup.settings.batch_size} rows")
    say(
        "to estimate tokens, time and memory, weights and data must be on this machine; download weights with: "
        "finetune weights get NAME"
    )


def _probe(recipe: Recipe, run: Run, processes: int) -> None:
    """Measure the steps and print the plan and the estimates."""
    reset_peak_memory()
    begun = time.monotonic()
    setup, task = build(recipe, run), task_of(recipe)
    loading = time.monotonic() - begun
    settings = setup.settings
    _say_plan(setup)
    device = torch.device(device_type())
    probe = task.probe(recipe, run, setup, device)
    if probe.job.problem is not None:
        _say_pass(probe.set_up_seconds, probe.whole.lengths, task.evaluation_seconds(recipe, run, setup, device))
        return
    first = try_steps(probe.job, settings, probe.batches, run.path("checkpoints"))
    plan = make_plan(probe.whole, settings, CHECKPOINT_SECONDS, loading + probe.set_up_seconds)
    found = estimate(first, replace(plan, kept_bytes=probe.kept_bytes))
    assert found is not None, "steps were measured"
    tokens = sum(probe.whole.lengths)
    say(
        f"steps: {plan.steps:,} of {settings.batch_size} rows; {len(probe.whole.lengths):,} rows of {tokens:,} tokens "
        f"in an epoch; {plan.validations} validations"
    )
    for line in task.alternatives(recipe, run):
        say(line)
    setup.model.float()
    seconds = task.evaluation_seconds(recipe, run, setup, device)
    _say_estimates(found, seconds, device)
    said = ", ".join(
        f"{size.tokens:,} tokens {took:.3g} s" for size, took in zip(first.sizes[1:], first.seconds[1:], strict=True)
    )
    say(
        f"measured: {len(first.seconds) - 1} optimizer steps, padding included: {said}; after a warm-up step "
        f"on the batch that needs the most memory ({first.sizes[0].tokens:,} tokens {first.seconds[0]:.3g} s)"
    )
    if busy := crowded(found):
        say(f"note: {busy}")
    if processes > 1:
        say(f"measured in one process; {processes} processes share each step, and each has its own copy of the model")
    say("not counted: baselines, intervals, report and export. Nothing was saved; no weights were changed.")


def _say_pass(seconds: float, lengths: Sequence[int], evaluation: float | None) -> None:
    """Print the cost of the method features: one pass over the texts, since the regression takes only seconds."""
    say(f"one pass over {len(lengths):,} rows of {sum(lengths):,} tokens, and the validation rows")
    for name, took in (("the pass", seconds), ("forward passes of evaluation", evaluation)):
        if took is not None:
            say(f"  {name:28}  {seconds_text(took):>12}".replace("\u00a0", " "))
    say("not counted: the regression, baselines, intervals, report and export. Nothing was saved.")


def _say_plan(setup: TrainingSetup[Any]) -> None:
    settings, trainable = setup.settings, setup.trainable
    for line in [*setup.why, trainable.describe()]:
        say(f"  {line}")
    more = len(trainable.names) - NAMES
    say("  trained tensors: " + ", ".join(trainable.names[:NAMES]) + (f" and {more} more" if more > 0 else ""))
    say(
        f"  chosen: method={settings.method}  "
        + (f"lr={settings.lr:g}  epochs={settings.epochs}  " if settings.lr is not None else "")
        + f"precision={settings.precision}"
    )


def _say_estimates(found: Estimate, evaluation: float | None, device: torch.device) -> None:
    where = "GPU memory" if device.type == "cuda" else "memory"
    rows = [
        ("estimate", "about", "range"),
        ("training", *(_span(seconds_text, found, "seconds"))),
        (f"peak {where} of training", *(_span(bytes_text, found, "peak_bytes"))),
    ]
    if evaluation is not None:
        rows.append(
            (
                "forward passes of evaluation",
                seconds_text(evaluation),
                f"{seconds_text(0.8 * evaluation)} to {seconds_text(1.2 * evaluation)}",
            )
        )
    for name, about, span in rows:
        say(f"  {name:28}  {about:>12}  {span}".replace("\u00a0", " "))


def _span(show: Callable[[float], str], found: Estimate, name: str) -> tuple[str, str]:
    about, low, high = (show(getattr(found, name + end)) for end in ("", "_low", "_high"))
    return about, f"{low} to {high}"
