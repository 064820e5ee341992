"""The command's ``--dry-run``: what a run would do, and what it would take, measured on a few real steps.

Everything happens in a temporary folder and nothing is downloaded. The steps are those of the run: its rows, weights,
precision and threads; the batch that needs the most memory warms up, then one batch of each third by length counts.
"""

import os
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from finetune import fetch
from finetune.checkpoints.fallback import RANDOM_BYTES, SCRATCH
from finetune.checkpoints.sources import locate_weights
from finetune.console import say
from finetune.datasets.batching import epoch_batches, micro_batches
from finetune.datasets.readers import read_labelled
from finetune.errors import FetchError
from finetune.models.gpt import GPT, GPTConfig
from finetune.recipe import Recipe, Train
from finetune.registry import data_registry, weights_registry
from finetune.report.blocks import bytes_text, seconds_text
from finetune.run import Run, reset_peak_memory
from finetune.stages import convert, download, prepare
from finetune.stages.train import build, build_job, packed_tokens, set_free
from finetune.tasks import classify, pretrain
from finetune.tasks.base import Trainable
from finetune.tokenizer import Tokenizer
from finetune.training.loop import CHECKPOINT_SECONDS, Job, count_steps, make_plan, try_steps
from finetune.training.precision import device_type
from finetune.training.probe import batch_size, choose_batches, crowded, estimate

NAMES = 8  # of the tensors that move, on the screen
EVALUATED = 32  # rows of a forward pass that stands for the evaluation


@dataclass(frozen=True)
class Probe:
    """A training cut down to the batches that are tried."""

    job: Job  # of these batches' rows
    batches: list[list[int]]  # in the job's own numbers
    whole: Job  # the same with all rows of the run, for the plan
    set_up_seconds: float = 0.0  # before the first step, over all rows
    kept_bytes: int = 0  # that the whole job holds and the cut one does not


def dry_run(recipe: Recipe, processes: int = 1) -> None:
    """Say what the run would do and take; without the weights or the data, what is known without them."""
    with _offline(), tempfile.TemporaryDirectory(prefix="finetune-dry-run-") as folder:
        missing = _missing_data(recipe), _missing_weights(recipe)
        for line in filter(None, missing):
            say(line)
        if any(missing):
            _plan_only(recipe, with_data=not missing[0])
            return
        run = Run(Path(folder))
        for number, stage in enumerate((download, convert, prepare), 1):
            run.finish(number, stage.__name__.rpartition(".")[2], "", [], stage.run(recipe, run), 0.0)
        _probe(recipe, run, processes)


@contextmanager
def _offline():
    """Nothing is downloaded inside the block: what is damaged here, say, is not replaced."""
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
    row = data_registry().get(recipe.data) if recipe.task == "classify" else None
    if row is None or fetch.find_data(row):
        return ""
    return f"data: {row.name} is not on this machine; the run downloads {bytes_text(row.spec.size_bytes)}"


def _missing_weights(recipe: Recipe) -> str:
    """A line where the weights are not here; names that mean nothing are errors, as in the run."""
    if recipe.weights in (RANDOM_BYTES, SCRATCH):
        return ""
    row = None if Path(recipe.weights).is_dir() else weights_registry().get(recipe.weights)
    if row is not None:
        size = sum(spec.size_bytes or 0 for spec in row.files.values())
        known = all(spec.size_bytes is not None for spec in row.files.values())
        size = size if known else 4 * (row.parameters or 0)
        return "" if fetch.find_weights(row) else (
            f"weights: {row.name} are not on this machine; the run downloads "
            + (f"{'' if known else 'about '}{bytes_text(size)}" if size else "them"))
    try:
        locate_weights(recipe.weights)
    except FetchError:
        return f"weights: {recipe.weights} are not on this machine; the run downloads them"
    return ""


def _plan_only(recipe: Recipe, with_data: bool) -> None:
    """What follows from the shape of weights that are not here, and from data that are."""
    row, rows, classes = weights_registry().get(recipe.weights), None, 0
    if with_data and recipe.task == "classify":
        data = download.locate(recipe)
        source = read_labelled(data.path, recipe.columns.text, recipe.columns.label, data.layout)
        records, card = classify.prepare(recipe, source, Tokenizer.of_bytes(), row.context if row else 1024)
        rows, classes = len(records["train"]), len(card["labels"])
        say(f"rows: {card['rows']:,}; " + " / ".join(f"{name} {len(part):,}" for name, part in records.items()))
    if row is not None and (classes or recipe.task == "pretrain"):
        with torch.device("meta"):  # shapes without numbers
            gpt = GPT(GPTConfig(vocab_size=row.vocab_size, context=row.context, width=row.width, layers=row.layers,
                                heads=row.heads))
            parameters = sum(p.numel() for p in gpt.parameters())
            _, settings, trainable, why = set_free(recipe, gpt, parameters, classes, rows)
        _say_plan(settings, trainable, why)
        if rows is not None:
            say(f"steps: {count_steps(rows, settings)[1]:,} of {settings.batch_size} rows")
    say("tokens, time and memory are known once weights and data are here: finetune weights get NAME fetches weights")


def _probe(recipe: Recipe, run: Run, processes: int) -> None:
    """Try the steps, and say the plan and the estimates."""
    reset_peak_memory()
    begun = time.monotonic()
    model, tokenizer, settings, trainable, why = build(recipe, run)
    loading = time.monotonic() - begun
    _say_plan(settings, trainable, why)
    device = torch.device(device_type())
    cut = {"classify": _cut_classify}.get(recipe.task, _cut_nothing)
    probe = cut(recipe, run, model, tokenizer, settings, trainable, device)
    first = try_steps(probe.job, settings, probe.batches, run.path("checkpoints"))
    plan = make_plan(probe.whole, settings, CHECKPOINT_SECONDS, loading + probe.set_up_seconds)
    found = estimate(first, replace(plan, kept_bytes=probe.kept_bytes))
    tokens = sum(probe.whole.lengths)
    say(f"steps: {plan.steps:,} of {settings.batch_size} rows; {len(probe.whole.lengths):,} rows of {tokens:,} tokens "
        f"in an epoch; {plan.validations} validations")
    evaluating = {"classify": _evaluate_classifier, "pretrain": _evaluate_language}.get(recipe.task)
    seconds = evaluating(recipe, run, model.float(), tokenizer, device) if evaluating else None
    _say_estimates(found, seconds, device)
    said = ", ".join(f"{size.tokens:,} tokens {took:.3g} s"
                     for size, took in zip(first.sizes[1:], first.seconds[1:], strict=True))
    say(f"measured: {len(first.seconds) - 1} optimizer steps, pads included: {said}; after a first one, not counted, "
        f"on the batch that needs the most memory ({first.sizes[0].tokens:,} tokens {first.seconds[0]:.3g} s)")
    if busy := crowded(found):
        say(f"note: {busy}")
    if processes > 1:
        say(f"measured in one process; {processes} share each step, and each holds a model of its own")
    say("not counted: baselines, intervals, report and export. Nothing was kept; no weights were changed.")


def _say_plan(settings: Train, trainable: Trainable, why: list[str]) -> None:
    for line in [*why, trainable.describe()]:
        say(f"  {line}")
    more = len(trainable.names) - NAMES
    say("  which: " + ", ".join(trainable.names[:NAMES]) + (f" and {more} more" if more > 0 else ""))
    say(f"  chosen: method={settings.method}  lr={settings.lr:g}  epochs={settings.epochs}  "
        f"precision={settings.precision}")


def _say_estimates(found: dict, evaluation: float | None, device: torch.device) -> None:
    where = "GPU memory" if device.type == "cuda" else "memory"
    rows = [("estimate", "about", "range"),
            ("training", *(_span(seconds_text, found, "estimate_seconds"))),
            (f"peak {where} of training", *(_span(bytes_text, found, "estimate_peak_bytes")))]
    if evaluation is not None:
        rows.append(("forward passes of evaluation", seconds_text(evaluation),
                     f"{seconds_text(0.8 * evaluation)} to {seconds_text(1.2 * evaluation)}"))
    for name, about, span in rows:
        say(f"  {name:28}  {about:>12}  {span}".replace("\u00a0", " "))


def _span(show, found: dict, key: str) -> tuple[str, str]:
    return show(found[key]), f"{show(found[key + '_low'])} to {show(found[key + '_high'])}"


def _cut_nothing(recipe: Recipe, run: Run, model, tokenizer, settings: Train, trainable, device) -> Probe:
    """For tasks whose job costs nothing before its first step; a validation reads one forward pass."""
    whole = build_job(recipe, run, model, tokenizer, settings, trainable, device)
    chosen = _choose(whole.lengths, settings)
    job = whole
    if recipe.task == "pretrain":
        together = max(settings.micro_batch_tokens // max(whole.lengths), 1)
        shorter = recipe.pretrain.model_copy(update={"val_blocks": together})
        job = build_job(recipe.model_copy(update={"pretrain": shorter}), run, model, tokenizer, settings, trainable,
                        device)
    return Probe(job, chosen, whole)


def _cut_classify(recipe: Recipe, run: Run, model, tokenizer, settings: Train, trainable, device) -> Probe:
    """The rows of the chosen batches alone, so that the frozen blocks run over few texts; they are timed."""
    prepared = run.result("prepare")
    train, val = (classify.examples(prepare.read_records(run, name), prepared["labels"], tokenizer,
                                    prepared["max_length"]) for name in ("train", "val"))
    lengths, val_lengths = (part.ids.lengths() for part in (train, val))
    budget = settings.micro_batch_tokens
    chosen = _choose(lengths, settings)
    rows = [row for batch in chosen for row in batch]
    largest = max(micro_batches(list(range(len(val_lengths))), val_lengths, budget),
                  key=lambda part: len(part) * val_lengths[part[-1]])
    cached = classify.keeps_states(model, trainable, settings, train.ids + val.ids)
    begun = time.monotonic()
    parts = _take(train, rows), _take(val, largest)
    job = classify.build_job(model, trainable, settings, *parts, device, cached)
    spent = time.monotonic() - begun
    tried = sum(batch_size(list(range(len(part.ids))), part.ids.lengths(), budget).tokens for part in parts)
    every = sum(batch_size(list(range(len(own))), own, budget).tokens for own in (lengths, val_lengths))
    numbers = np.split(np.arange(len(rows)), np.cumsum([len(batch) for batch in chosen])[:-1])
    kept = [classify.kept_bytes(model, trainable, ids) for ids in (train.ids + val.ids, parts[0].ids + parts[1].ids)]
    return Probe(job, [own.tolist() for own in numbers],
                 replace(job, lengths=lengths, validation_tokens=sum(val_lengths)),
                 spent / tried * every if cached else 0.0, max(kept[0] - kept[1], 0) if cached else 0)


def _choose(lengths: list[int], settings: Train) -> list[list[int]]:
    batches = epoch_batches(lengths, settings.batch_size, settings.seed, 0)[:count_steps(len(lengths), settings)[1]]
    return choose_batches(batches, lengths, settings.micro_batch_tokens)


def _take(part: classify.Examples, rows: list[int]) -> classify.Examples:
    return classify.Examples([part.rows[i] for i in rows], part.ids.take(rows), part.targets[rows])


def _evaluate_classifier(recipe: Recipe, run: Run, model, tokenizer, device) -> float:
    """Seconds of the passes over validation and test rows, from some rows spread over the lengths."""
    prepared = run.result("prepare")
    ids = [own for name in ("val", "test")
           for own in classify.examples(prepare.read_records(run, name), prepared["labels"], tokenizer,
                                        prepared["max_length"]).ids]
    ordered = sorted(ids, key=len)
    some = [ordered[len(ordered) * (2 * i + 1) // (2 * EVALUATED)] for i in range(EVALUATED)]
    model.to(device).eval()

    def padded(rows: list[list[int]]) -> int:
        return batch_size(list(range(len(rows))), [len(row) for row in rows], classify.PREDICT_TOKENS).tokens
    return _second_time(lambda: classify.predict_logits(model, some)) / padded(some) * padded(ids)


def _evaluate_language(recipe: Recipe, run: Run, model, tokenizer, device) -> float:
    """Seconds of the passes over the held-out blocks, one at a time and by both states of the model."""
    tokens = packed_tokens(recipe, run, model.gpt, tokenizer, "val")
    model.to(device).eval()
    took = _second_time(lambda: pretrain.block_nats(model, tokens, [0], 1, device))
    return 2 * took * len(tokens.ids) / tokens.length(0)


def _second_time(work) -> float:
    """Seconds of doing this again: the first time warms up."""
    work()
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
