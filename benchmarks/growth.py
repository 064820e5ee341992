"""The growth of a training's cost with rows, length, trained blocks, classes and model size, with fitted exponents.

Whole trainings of one epoch on random ids, in processor seconds on one thread. The exponent is the slope of a line fitted
to the logarithms of the larger half of the points, where fixed costs matter least. Writes growth.json, growth.png and
its section of README.md.

    python benchmarks/growth.py
"""

import math
import statistics
import tempfile
import time
from pathlib import Path

import few_labels
import matplotlib
import numpy as np
import torch
from machine import instruction_set, processor_name

from finetune.files import write_json
from finetune.models.gpt import GPT, GPTConfig
from finetune.recipe import Train
from finetune.tasks.classify.job import Examples, build_job, build_model
from finetune.tasks.setup import fit
from finetune.training.token_rows import TokenRows
from finetune.training.trainable import freeze

VOCABULARY, ROUNDS = 512, 2
BASE = {"rows": 64, "length": 64, "blocks": 4, "classes": 2, "width": 128}
AXES = {
    "rows": (32, 64, 128, 256),
    "length": (32, 64, 128, 256, 512),
    "blocks": (1, 2, 4, 8),  # trained blocks, of eight
    "classes": (2, 16, 128, 1024, 4096),
    "width": (64, 128, 256, 384),  # with four blocks
}
UNITS = {"rows": "rows", "length": "tokens a text", "blocks": "trained blocks of 8", "classes": "classes"}


def seconds(rows: int, length: int, blocks: int, classes: int, width: int, layers: int) -> float:
    """Processor seconds of a training of one epoch."""
    random = np.random.default_rng(0)
    ids = TokenRows(random.integers(0, VOCABULARY, rows * length), np.arange(1, rows + 1) * length)
    part = Examples(list(range(rows)), ids, random.integers(0, classes, rows))
    few = Examples([0, 1], ids[:2], part.targets[:2])
    config = GPTConfig(VOCABULARY, context=512, width=width, layers=layers, heads=4)
    model = build_model(GPT(config).initialise(0), classes, 0)
    settings = Train(method="last-blocks", last_blocks=blocks, epochs=1, lr=1e-4, precision="fp32", threads=1)
    trainable = freeze(model, model.body, "last-blocks", blocks)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        fit(build_job(model, trainable, settings, part, few, torch.device("cpu")), settings, Path(folder), {})
        return time.process_time() - begun


def parameters(width: int) -> int:
    """Parameters of four blocks of this width."""
    return 12 * 4 * width * width


def main() -> None:
    """Measure, fit, draw."""
    torch.set_num_threads(1)
    seconds(**BASE | {"rows": 16}, layers=4)  # warm up
    found = {}
    for axis, values in AXES.items():
        layers = max(AXES["blocks"]) if axis == "blocks" else BASE["blocks"]
        took = [min(seconds(**BASE | {axis: value}, layers=layers) for _ in range(ROUNDS)) for value in values]
        x = [parameters(value) for value in values] if axis == "width" else list(values)
        upper = slice(len(x) // 2 - 1, None)
        slope = statistics.linear_regression([*map(math.log, x[upper])], [*map(math.log, took[upper])]).slope
        found[axis] = {"x": x, "seconds": took, "exponent": slope}
        print(f"{axis}: exponent {slope:.2f}, {took}", flush=True)
    here = Path(__file__).parent
    record = {"processor": processor_name(), "instruction_set": instruction_set(), "base": BASE, "axes": found}
    write_json(here / "growth.json", record)
    draw(found, here / "growth.png")
    few_labels.write_section(here / "README.md", "growth", section(record))


def section(record: dict) -> str:
    """The section of README.md, from growth.json."""
    lines = [
        "## How the cost grows",
        "",
        f"Processor seconds of a training of one epoch, one thread of an {record['processor']} "
        f"({record['instruction_set']}), fp32, random "
        f"ids; where an axis does not say otherwise, {BASE['rows']} rows of {BASE['length']} tokens, {BASE['blocks']} blocks of "
        f"width {BASE['width']}, all of them trained, and {BASE['classes']} classes. Exponent: of the larger half of the points.",
        "",
        "    python benchmarks/growth.py",
        "",
        "| axis | values | CPU seconds | exponent |",
        "|---|---|---|---:|",
    ]
    for axis, own in record["axes"].items():
        values, took = ", ".join(f"{x:,}" for x in own["x"]), ", ".join(f"{y:.2f}" for y in own["seconds"])
        lines.append(f"| {UNITS.get(axis, 'parameters of the blocks')} | {values} | {took} | {own['exponent']:.2f} |")
    return "\n".join([*lines, "", "![Cost by rows, length, trained blocks, classes and parameters](growth.png)"])


def short(number: int) -> str:
    """A number for the axis: 512, 4k, 7.1M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.{0 if number >= 10 * size else 1}f}{unit}"
    return str(number)


def draw(found: dict, path: Path) -> None:
    """One panel for each axis."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found), figsize=(3 * len(found), 3), sharey=True, constrained_layout=True)
    for panel, (axis, own) in zip(panels, found.items(), strict=True):
        panel.loglog(own["x"], own["seconds"], marker="o")
        panel.minorticks_off()
        panel.set_xticks(own["x"], [short(x) for x in own["x"]])
        panel.set_title(f"exponent {own['exponent']:.2f}", fontsize=10)
        panel.set_xlabel(UNITS.get(axis, "parameters of the blocks"))
    panels[0].set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    panels[0].set_ylabel("CPU seconds")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
