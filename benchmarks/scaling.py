"""The expected speed-up from several GPUs: a simple model of computation and communication, and its plot.

    python benchmarks/scaling.py        # writes docs/scaling.png and prints the table of docs/scaling.md

Nothing here is measured on several GPUs. One step takes 6 FLOP per parameter and token (Kaplan et al. 2020,
arXiv:2001.08361, section 2.1) at a share of the GPU's peak, two thirds of it in the backward pass. Data parallelism adds
a ring all-reduce of the gradients: 2 (N - 1) / N times their bytes cross the slowest link, in 2 (N - 1) turns for each
bucket (Patarasuk and Yuan 2009). PyTorch overlaps it with the backward pass; the rest adds to the step's time.
"""

import math
from dataclasses import dataclass
from pathlib import Path

PEAK = 989e12  # bf16 FLOP/s of an H100 without sparsity
SHARE = 0.40  # assumed share of the peak that one GPU reaches
GRADIENT_BYTES = 4  # fp32
BUCKET_BYTES = 25e6  # the default of DistributedDataParallel
TURN_SECONDS = 10e-6  # assumed latency of passing a bucket's part on
NODE = 8  # GPUs per node
SIZES = {"124M": 124e6, "355M": 355e6, "774M": 774e6, "1.5B": 1558e6}
TOKENS = (512, 4096, 16384)  # per GPU and step: 16 short texts, a step with micro_batch_tokens, pretraining
COUNTS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Link:
    """The slowest link of a ring, in bytes per second each way."""

    name: str
    within: float  # within a node
    between: float  # between nodes


LINKS = (
    Link("NVLink, 3,200 Gbit/s a node", 450e9, 400e9),
    Link("NVLink, 100 Gbit/s a node", 450e9, 12.5e9),
    Link("PCIe, 25 Gbit/s a node", 25e9, 3.1e9),
)


def step_seconds(parameters: float, tokens: int, gpus: int, link: Link) -> tuple[float, float]:
    """Seconds of computation in a step, and of waiting for gradients after the backward pass."""
    computed = 6 * parameters * tokens / (SHARE * PEAK)
    size = parameters * GRADIENT_BYTES
    turns = 2 * (gpus - 1)
    sent = turns / gpus * size / (link.within if gpus <= NODE else link.between)
    sent += turns * TURN_SECONDS * math.ceil(size / BUCKET_BYTES)
    return computed, max(0.0, sent - computed * 2 / 3)


def efficiency(parameters: float, tokens: int, gpus: int, link: Link) -> float:
    """Tokens per second of each GPU, relative to a single GPU."""
    computed, waited = step_seconds(parameters, tokens, gpus, link)
    return computed / (computed + waited)


def table() -> str:
    """The expected efficiency, in Markdown, for 124M parameters; larger models differ by a point or two."""
    lines = ["| tokens a GPU and step | link | " + " | ".join(f"{count} GPUs" for count in COUNTS[1:]) + " |"]
    lines.append("|---:|---|" + "---:|" * len(COUNTS[1:]))
    for tokens in TOKENS:
        for link in LINKS:
            cells = " | ".join(f"{efficiency(SIZES['124M'], tokens, count, link):.0%}" for count in COUNTS[1:])
            lines.append(f"| {tokens:,} | {link.name} | {cells} |")
    return "\n".join(lines)


def draw(path: Path) -> None:
    """The expected efficiency by the number of GPUs: a panel for each number of tokens, the band from 124M to 1.5B."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(TOKENS), figsize=(10, 3.4), sharey=True)
    for panel, tokens in zip(panels, TOKENS, strict=True):
        for link in LINKS:
            shares = [[100 * efficiency(size, tokens, n, link) for n in COUNTS] for size in SIZES.values()]
            (line,) = panel.plot(COUNTS, shares[0], marker="o", markersize=4, label=link.name)
            low, high = ([pick(own) for own in zip(*shares, strict=True)] for pick in (min, max))
            panel.fill_between(COUNTS, low, high, color=line.get_color(), alpha=0.2)
        panel.set_xscale("log", base=2)
        panel.set_xticks(COUNTS, [str(count) for count in COUNTS])
        panel.set_xlabel("GPUs")
        panel.set_title(f"{tokens:,} tokens a GPU and step", fontsize=9)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("tokens/s of each, % of one GPU's")
    panels[0].set_ylim(0, 105)
    panels[-1].legend(fontsize=8, loc="lower left")
    figure.suptitle("Expected, not measured: 124M (lines) to 1.5B parameters", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(Path(__file__).resolve().parents[1] / "docs" / "scaling.png")
    print(table())
