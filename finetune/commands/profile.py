"""``finetune doctor --profile RUN``: where the time of a training step goes."""

from pathlib import Path

import torch

from finetune.console import aligned
from finetune.errors import RunError
from finetune.run import Run
from finetune.tasks.base import task_of
from finetune.tasks.setup import build
from finetune.training.precision import device_type
from finetune.training.profile import PARTS, Profile, profile_steps


def profile_run(directory: Path) -> list[str]:
    """Take a few training steps with a run's data, weights and settings, and list the time of each part.

    Nothing in the run is changed. Raises RunError for a run whose data are not prepared.
    """
    run = Run.at(directory)
    recipe = run.recipe()
    if not run.finished("prepare"):
        raise RunError(
            f"{directory}: its data are not prepared", do=f"finetune run {run.path('recipe.json')} --until prepare"
        )
    setup, device = build(recipe, run), torch.device(device_type())
    probe = task_of(recipe).probe(recipe, run, setup, device)
    found = profile_steps(probe.job, setup.settings, probe.batches, device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return [f"{found.steps} training steps of {run.directory}, {setup.settings.precision}, {where}", "", *table(found)]


def table(found: Profile) -> list[str]:
    """The parts with their share of the time, and the speed."""
    rows = [["part", "ms per step", "share"]]
    rows += [
        [name, f"{1e3 * found.seconds[name] / found.steps:,.1f}", f"{found.seconds[name] / found.total:.1%}"]
        for name in PARTS
    ]
    speed, reached = found.tokens / found.total, found.flops / found.total
    return [
        *aligned(rows),
        "",
        f"{speed:,.0f} tokens per second, padding included",
        f"{reached / 1e9:,.1f} GFLOP per second in linear layers, {reached / found.peak_flops:.0%} of the "
        f"{found.peak_flops / 1e9:,.0f} that one large matrix product reaches here",
    ]
