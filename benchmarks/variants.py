"""The options of a from-scratch model side by side: each trained for as many steps on the same tokens.

    python benchmarks/variants.py --text FOLDER_OF_TEXTS

Adds a row a run to variants.json, skips the rows that are there with the same settings, draws variants.png and prints
the table. Without --text it reads the bundled sample, which a model soon knows by heart; give it some megabytes.
Speed is in tokens per second of processor time, so that other work on the machine does not count.
"""

import argparse
import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
import torch

from finetune.console import say
from finetune.files import read_json, write_json
from finetune.hub.assets import asset
from finetune.models.heads import NextToken
from finetune.models.variants import Variant, VariantConfig
from finetune.recipe import Train
from finetune.tasks.pretrain.documents import write_tokens
from finetune.tasks.pretrain.job import block_nll, build_job
from finetune.tasks.pretrain.packing import PackedTokens
from finetune.tasks.pretrain.settings import Pretrain
from finetune.tokenizer import Tokenizer
from finetune.training.loop import train
from finetune.training.precision import device_type

SHAPE = {"context": 256, "width": 128, "layers": 4, "heads": 4}
BASELINE = "learned"  # GPT-2 itself; with other seeds it says what noise is
ROWS = {
    BASELINE: {},
    "sinusoidal": {"positions": "sinusoidal"},
    "rotary": {"positions": "rotary"},
    "alibi": {"positions": "alibi"},
    "grouped-query": {"kv_heads": 2},
    "multi-query": {"kv_heads": 1},
    "relu": {"activation": "relu"},
    "swiglu": {"activation": "swiglu"},
    "post-norm": {"norm": "post"},
    "rms": {"norm": "rms"},
    "untied": {"tied": False},
    "llama": {
        "positions": "rotary",
        "kv_heads": 2,
        "activation": "swiglu",
        "norm": "rms",
        "tied": False,
        "biases": False,
    },
}
PANELS = {
    "Positions": ("sinusoidal", "rotary", "alibi"),
    "Heads and output": ("grouped-query", "multi-query", "untied"),
    "MLP and norm": ("relu", "swiglu", "rms", "post-norm"),
    "LLaMA's shape": ("llama",),
}
STYLES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))  # Okabe and Ito's palette
EVERY = 25  # steps that a point of a loss curve is the mean of


def measure(name: str, seed: int, settings: dict, data: Path) -> dict:
    """Train one option; returns what was found."""
    tokenizer = Tokenizer.of_bytes()
    training, held_out = (
        PackedTokens(data / f"{split}.bin", SHAPE["context"], tokenizer.vocab_size, tokenizer.end_of_text)
        for split in ("train", "val")
    )
    steps, batch_size = settings["steps"], settings["batch_size"]
    epochs = math.ceil(steps * batch_size / len(training))
    chosen = Train(
        method="full",
        metric="log_loss",
        epochs=epochs,
        patience=epochs,
        max_steps=steps,
        seed=seed,
        batch_size=batch_size,
        micro_batch_tokens=batch_size * SHAPE["context"],
        lr=settings["lr"],
        optimizer=settings["optimizer"],
        warmup_fraction=0.1,
        min_lr_fraction=0.1,
        beta_2=0.98,
        precision="fp32",
        threads=settings["threads"],
    )
    device = torch.device(device_type())
    model = NextToken(Variant(VariantConfig(tokenizer.vocab_size, **SHAPE, **ROWS[name])).initialise(seed))
    job = build_job(model, chosen, training, held_out, 1.0, 8, device)
    clock: list[float] = []

    def batch(rows: list[int]):
        clock.append(time.process_time())
        return job.batch(rows)

    with tempfile.TemporaryDirectory() as work:
        train(replace(job, batch=batch), chosen, Path(work), {})
        lines = map(json.loads, (Path(work) / "train.jsonl").read_text(encoding="utf-8").splitlines())
        losses = [line["loss"] for line in lines if "loss" in line]
    blocks = sorted({len(held_out) * i // settings["held_out_blocks"] for i in range(settings["held_out_blocks"])})
    nats = float(block_nll(model.eval(), held_out, blocks, batch_size, device).sum())
    lengths = np.array(tokenizer.byte_lengths())
    size = sum(int(lengths[held_out.targets(block)].sum()) for block in blocks)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "held_out_nats": nats / sum(map(held_out.length, blocks)),
        "held_out_bits_per_byte": nats / math.log(2) / size,
        "tokens_per_second": round(batch_size * SHAPE["context"] / median(np.diff(clock))),
        "losses": [round(mean(losses[i : i + EVERY]), 4) for i in range(0, len(losses), EVERY)],
    }


def table(rows: list[dict]) -> str:
    """The rows as Markdown, each beside the mean of the baseline's seeds."""
    own = [row["held_out_bits_per_byte"] for row in rows if row["name"] == BASELINE]
    spread = f", standard deviation {stdev(own):.4f}" if len(own) > 1 else ""
    lines = [
        "| option | parameters | held-out loss (nats) | bits per byte | beside `learned` | tokens per second |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        bits = row["held_out_bits_per_byte"]
        name = f"{BASELINE}, seed {row['seed']}" if row["name"] == BASELINE else row["name"]
        lines.append(
            f"| {name} | "
            f"{row['parameters']:,} | {row['held_out_nats']:.4f} | {bits:.4f} | {bits - mean(own):+.4f} | "
            f"{row['tokens_per_second']:,} |"
        )
    return "\n".join(lines) + f"\n\n`learned`: mean {mean(own):.4f} of {len(own)} seeds{spread}."


def draw(rows: list[dict], path: Path) -> None:
    """Loss curves above, below them the difference from the baseline that saw the same batches."""
    from matplotlib.figure import Figure

    first, *others = (np.array(row["losses"]) for row in rows if row["name"] == BASELINE)
    steps = EVERY * (np.arange(len(first)) + 0.5)
    figure = Figure(figsize=(13, 6.2), layout="constrained")
    axes = figure.subplots(2, len(PANELS), sharex=True, sharey="row")
    for (title, names), (upper, lower) in zip(PANELS.items(), axes.T, strict=True):
        shown = [row for name in names for row in rows if row["name"] == name]
        upper.plot(steps, first, color="black", linewidth=1.2, label=BASELINE)
        lower.axhline(0, color="black", linewidth=1.2)
        for number, losses in enumerate(others):
            upper.plot(steps, losses, color="#999999", linewidth=0.9, label="" if number else "its other seeds")
            lower.plot(steps, losses - first, color="#999999", linewidth=0.9)
        for row, (colour, line) in zip(shown, STYLES, strict=False):
            style = {"color": colour, "linestyle": line, "linewidth": 2, "label": row["name"]}
            upper.plot(steps, row["losses"], **style)
            lower.plot(steps, np.array(row["losses"]) - first, **style)
        upper.set_title(title)
        upper.legend(loc="upper right", fontsize=9)
        lower.set_xlabel("Optimizer step")
        for panel in (upper, lower):
            panel.grid(color="#e6e8eb")
            panel.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("Training loss (nats a byte)")
    axes[1, 0].set_ylabel(f"Difference from {BASELINE}")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measure what has no row yet; then the picture and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, default=asset("data") / "text" / "sample.txt", help="a file or a folder")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="muon")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seeds", type=int, default=3, help="of the baseline; the others have one")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        card = write_tokens(arguments.text, data, Tokenizer.of_bytes(), Pretrain(val_fraction=0.02), seed=1)
        settings = {
            "sources": list(card.sources),
            "train_bytes": card.bytes["train"],
            "steps": arguments.steps,
            "batch_size": 8,
            "held_out_blocks": 400,
            "optimizer": arguments.optimizer,
            "lr": arguments.lr,
            "threads": 1,
            "shape": SHAPE,
        }
        done = read_json(arguments.out) if arguments.out.exists() else []
        for name in arguments.only:
            for seed in range(1, arguments.seeds + 1 if name == BASELINE else 2):
                what = {"name": name, "seed": seed, "options": ROWS[name], "settings": settings}
                if not any(row.items() >= what.items() for row in done):
                    say(f"{name}, seed {seed}")
                    done.append(what | measure(name, seed, settings, data))
                    write_json(arguments.out, done)
    rows = [row for name in ROWS for row in done if row["name"] == name and row["settings"] == settings]
    draw(rows, arguments.out.with_suffix(".png"))
    print(table(rows))


if __name__ == "__main__":
    main()
