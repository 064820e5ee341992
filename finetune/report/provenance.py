"""The sections on the model's origin: training, settings, machine, licence."""

import shlex
from typing import Any

from finetune.evaluation.leakage import OverlapCounts
from finetune.evaluation.results import StartWeights
from finetune.records import DataOrigin, StageRecord, TrainResult
from finetune.report import plots
from finetune.report.blocks import (
    NONE,
    Code,
    Figure,
    Section,
    Table,
    Text,
    bytes_text,
    facts,
    flatten,
    metric_name,
    seconds_text,
    value_text,
)
from finetune.report.inputs import VALIDATION, TrainingLog
from finetune.report.metric_text import in_sentence

_HASHES = 40


def training(log: TrainingLog, train: TrainResult | None) -> Section:
    """The trained weights, and the loss curves."""
    metric = in_sentence(metric_name(train.metric)) if train else "metric"
    blocks: list = _training_figures(log, train.best_step if train else None, metric)
    if not blocks:
        blocks = [Text("The run has no log of its training steps.")]
    if train:
        blocks += [*_what_was_trained(train, metric), *_estimates(train)]
    return Section("training", "Training", blocks)


def _what_was_trained(train: TrainResult, metric: str) -> list[Table]:
    moved, places = train.trainable, train.trainable.places
    return facts(
        "What was trained",
        [
            ("Method", train.method),
            ("Automatic choices", "; ".join(train.why)),
            ("Trainable parameters", f"{moved.parameters:,} of {train.parameters:,} ({100 * moved.share:.2f}\u00a0%)"),
            ("Trainable layers", ", ".join(places[:8]) + (f" and {len(places) - 8} more" if len(places) > 8 else "")),
            ("Optimizer steps", f"{train.steps:,}"),
            ("Epochs", train.epochs),
            ("Best checkpoint", f"step {train.best_step}: {metric} {train.best_value:.4f} on the validation set"),
            ("Stopped early", train.stopped_early),
            *([] if train.lr is None else [("Peak learning rate", train.lr)]),
            ("Precision", train.precision),
            ("Threads", train.threads),
            ("Processes", train.processes),
            ("Tokens per second", f"{round(train.tokens_per_second):,}"),
            ("Time", seconds_text(train.seconds)),
        ],
    )


def _estimates(train: TrainResult) -> list:
    """The estimate from the first steps beside the actual values; nothing if no step was measured."""
    found = train.estimate
    if found is None:
        return []
    rows = [
        [
            "Time",
            seconds_text(found.seconds),
            f"{seconds_text(found.seconds_low)} to {seconds_text(found.seconds_high)}",
            seconds_text(train.seconds),
        ],
        [
            "Peak memory",
            bytes_text(found.peak_bytes),
            f"{bytes_text(found.peak_bytes_low)} to {bytes_text(found.peak_bytes_high)}",
            bytes_text(train.peak_bytes),
        ],
    ]
    note = f"The estimate is extrapolated from {found.steps} early steps, not counting the first."
    if train.steps != train.planned_steps:
        note += f" It is for {train.planned_steps:,} steps; training stopped after {train.steps:,}."
    if found.cpu_share < 1:
        note += (
            f" During them the process received {100 * found.cpu_share:.0f}\u00a0% of the CPU time that its threads requested. A "
            "lower share means that other processes were using the CPU, and makes the expected range wider."
        )
    return [
        Table("Estimated and actual cost", ["", "Estimate", "Expected range", "Actual"], rows, frozenset({1, 2, 3})),
        Text(note, small=True),
    ]


def _training_figures(log: TrainingLog, best: int | None, metric: str) -> list[Figure]:
    figures = []
    points = log.validation
    losses = [point.metrics["log_loss"] for point in points if "log_loss" in point.metrics]
    last = f" The last validation log loss is {losses[-1]:.4f}." if losses else ""
    known = [name for name in VALIDATION if any(name in point.metrics for point in points)]
    table = (
        Table(
            "Validation during training",
            ["Step", "Epoch", *map(metric_name, known), "Best so far"],
            [
                [
                    f"{point.step:,}",
                    value_text(point.epoch),
                    *(f"{point.metrics[name]:.4f}" if name in point.metrics else NONE for name in known),
                    "yes" if point.best else "",
                ]
                for point in points
            ],
            frozenset(range(2 + len(known))),
        )
        if points
        else None
    )
    if log.steps or losses:
        figures.append(
            Figure(
                plots.loss_picture(log, best),
                "Loss and learning rate",
                f"Training and validation loss over the optimizer steps, and the learning rate below.{last}",
                "Both losses should fall and level off. If the validation loss rises while the training loss falls, the "
                "model overfits. "
                f"The dashed line marks the checkpoint with the best validation {metric}, which is evaluated and exported. "
                "The lower panel shows the learning rate: a warmup, then the schedule set by train.schedule.",
                table,
            )
        )
    columns = {
        metric_name(name): [point.metrics[name] for point in points]
        for name in ("accuracy", "f1_macro")
        if points and all(name in point.metrics for point in points)
    }
    if columns:
        figures.append(
            Figure(
                plots.validation_picture([point.step for point in points], columns, best),
                "Validation metrics",
                f"Validation metrics at {len(points)} evaluations.",
                "Metrics on the validation set, at each validation during training. The dashed line marks the checkpoint that is "
                "evaluated and exported.",
            )
        )
    return figures


def origin(card: DataOrigin) -> list[tuple[str, str]]:
    """The origin of the data, as pairs for a table."""
    return [("Name", card.name), ("Source", card.source), ("File", card.file), ("sha256", card.sha256)]


def overlap_table(overlap: dict[str, OverlapCounts], what: str) -> list[Table]:
    """A table of the rows of a split that also occur in another (``evaluation.leakage.overlap``); an empty list if none.

    what: the part of a row that is compared.
    """
    names, rows = {"val": "validation"}, []
    for key, counts in overlap.items():
        split, _, other = key.partition("_in_")
        rows.append(
            [
                f"{names.get(split, split)} rows also in {names.get(other, other)}",
                f"{counts.exact:,}",
                f"{counts.normalised:,}",
                f"{counts.n:,}",
            ]
        )
    return (
        [
            Table(
                f"Rows whose {what} also occurs in another split",
                ["", "Exact matches", "After normalising", "Rows in the split"],
                rows,
                frozenset({1, 2, 3}),
            )
        ]
        if rows
        else []
    )


def what_was_run(
    name: str, recipe: dict[str, Any], descriptions: dict[str, str], stages: list[StageRecord], weights: StartWeights
) -> Section:
    """How to repeat the run, every setting, versions, machine, time and hashes. recipe: dotted key -> value."""
    run = shlex.quote(f"runs/{name}")
    blocks: list = [
        Text("To reproduce this run under another name, in the project's directory:"),
        Code(f"finetune run {run}/recipe.json --name {shlex.quote(name + '-again')}"),
        *facts("Weights", [("Name", weights.name), ("Source", weights.source), ("sha256", weights.sha256 or None)]),
    ]
    if recipe:
        blocks.append(
            Table(
                "Settings",
                ["Setting", "Value", "Meaning"],
                [[key, value_text(value), descriptions.get(key, "")] for key, value in recipe.items()],
                prose=frozenset({2}),
            )
        )
    if stages:
        blocks.append(
            Table(
                "Stages",
                ["Stage", "Time", "Peak memory", "Finished"],
                [
                    [
                        stage.stage,
                        seconds_text(stage.seconds),
                        bytes_text(stage.peak_memory_bytes),
                        stage.finished + (f", reused from {stage.taken_from}" if stage.taken_from else ""),
                    ]
                    for stage in stages
                ],
                frozenset({1, 2}),
            )
        )
    versions, hardware, commit = (
        next((found for stage in reversed(stages) if (found := getattr(stage, key))), None)
        for key in ("versions", "hardware", "git_commit")
    )
    seeds = [(key, value) for key, value in recipe.items() if key.rsplit(".", 1)[-1] == "seed"]
    blocks += facts("Seeds", seeds)
    blocks += facts("Versions", [*(versions or {}).items(), ("git commit", commit)])
    blocks += facts("Hardware", flatten(hardware or {}))
    hashes = [
        pair
        for stage in stages
        if stage.stage != "report"  # a page cannot name its own hash
        for pair in (
            (f"{stage.stage}: inputs", stage.inputs),
            *((f"{stage.stage}: outputs.{path}", digest) for path, (_, digest) in stage.outputs.items()),
        )
    ]
    blocks += facts("Hashes (sha256) of each stage's inputs and output files", hashes[:_HASHES])
    if len(hashes) > _HASHES:
        blocks.append(
            Text(f"{len(hashes) - _HASHES} more hashes are in the run's stage records (stages/*.json).", small=True)
        )
    return Section("run", "Run details", blocks)


def licence(card: DataOrigin | None) -> list[Section]:
    """Licence and citation of the data, if known."""
    found = facts("Licence of the data", [("Licence", card.licence), ("Citation", card.citation)]) if card else []
    return [Section("licence", "Licence", found)] if found else []
