"""Warnings about a training that did not work, from its log."""

import json
from pathlib import Path
from statistics import mean, median

LEAST_STEPS = 20  # in fewer steps, a loss may not fall by chance
SHARE = 5  # compares the first fifth of the steps with the last
FAR = 3.0  # times the median of the first losses: a loss above it has diverged


def warnings_about(log: Path) -> list[str]:
    """Warnings if the training loss did not fall, or diverged; each names the steps and what to try."""
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    losses = [(line["step"], line["loss"]) for line in lines if line.get("loss") is not None and "step" in line]
    if len(losses) < LEAST_STEPS:
        return []
    size = len(losses) // SHARE
    first, last = (mean(loss for _, loss in part) for part in (losses[:size], losses[-size:]))
    begun = median(loss for _, loss in losses[:size])
    away = next((step for step, loss in losses if loss > FAR * begun and loss > begun + 1), None)
    if last >= first and away is not None:
        return [
            f"the training loss diverged: {begun:.3f} at the start, more than {FAR:.0f} times that at step {away:,}, "
            f"{last:.3f} at the end. Lower train.lr."
        ]
    if last >= first:
        return [
            f"the training loss did not fall: {first:.3f} over the first {size:,} steps, {last:.3f} over the last "
            f"{size:,}. Try another train.lr, more epochs, or look at the labels with: finetune data check"
        ]
    return []
