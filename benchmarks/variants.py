"""Compare the options of a from-scratch model: each trained for as many steps on the same tokens, with three seeds.

    python benchmarks/variants.py --text FOLDER_OF_TEXTS     hours on one thread; the same command resumes after a stop
    python benchmarks/variants.py --smoke                    a minute, to check that it works; saves nothing

A byte model first learns bigram statistics, and stays on that plateau for a while, where a comparison says little. Each
row has the step at which its training loss fell below LEFT times the loss of byte-pair counts, and the table names the
rows that never did: give those more --steps.

Adds a row for each (option, seed) to variants.json, skips existing ones with the same settings, resumes one that was
stopped, draws variants.png and prints the table. Without --text it reads the bundled sample, which a model soon
memorises; give it some megabytes. Speed is in tokens per second of processor time, so that other load on the machine
does not count.
"""

import argparse
import json
import math
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
import torch

from finetune.console import say
from finetune.files import read_json, sha256_json, write_json
from finetune.hub.assets import asset
from finetune.models.heads import LossModule
from finetune.models.transformer import Transformer, TransformerConfig
from finetune.recipe import Train
from finetune.tasks.pretrain.documents import write_tokens
from finetune.tasks.pretrain.job import block_nll, build_job
from finetune.tasks.pretrain.packing import PackedTokens
from finetune.tasks.pretrain.settings import Pretrain
from finetune.tokenizer import Tokenizer
from finetune.training.loop import train
from finetune.training.precision import device_type

SHAPE = {"context": 128, "width": 128, "layers": 4, "heads": 4}
BASELINE = "learned"  # GPT-2 itself; its other seeds show the noise
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
    "local": {"attention": "local", "window": 32},
    "shared": {"shared_blocks": True},
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
    "LLaMA's shape, and others": ("llama", "local", "shared"),
}
STYLES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))  # Okabe and Ito's palette
EVERY = 25  # steps averaged in a point of a loss curve
LEFT = 0.9  # share of the loss of byte pairs below which a row has left the plateau
SMOKE = {"steps": 6, "seeds": 2, "only": [BASELINE, "alibi"], "held_out_blocks": 4}


def measure(name: str, seed: int, settings: dict, data: Path, work: Path) -> dict:
    """Train one option, resuming a stopped training in `work`. Returns the results."""
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
    model = LossModule(Transformer(TransformerConfig(tokenizer.vocab_size, **SHAPE, **ROWS[name])).initialise(seed))
    job = build_job(model, chosen, training, held_out, 1.0, 8, device)
    clock: list[float] = []

    def batch(rows: list[int]):
        clock.append(time.process_time())
        return job.batch(rows)

    work.mkdir(parents=True, exist_ok=True)
    train(replace(job, batch=batch), chosen, work, {"run": sha256_json([name, seed, settings])})
    lines = map(json.loads, (work / "train.jsonl").read_text(encoding="utf-8").splitlines())
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


def pair_nats(data: Path) -> float:
    """Held-out loss of token-pair counts with add-one smoothing: the plateau (nats per token)."""
    size = Tokenizer.of_bytes().vocab_size
    training, held_out = (
        np.fromfile(data / f"{split}.bin", dtype=np.uint16).astype(np.int64) for split in ("train", "val")
    )
    counts = 1.0 + np.bincount(training[:-1] * size + training[1:], minlength=size * size).reshape(size, size)
    return float(-np.log(counts / counts.sum(axis=1, keepdims=True))[held_out[:-1], held_out[1:]].mean())


def left_at(row: dict) -> int | None:
    """The step at which a row's training loss was below LEFT of the loss of byte pairs; None: never, or unknown."""
    plateau = row["settings"].get("pair_nats", -math.inf)
    return next((EVERY * (i + 1) for i, loss in enumerate(row["losses"]) if loss < LEFT * plateau), None)


def table(rows: list[dict]) -> str:
    """The means over seeds as Markdown, each compared with the baseline of the same seeds."""
    own = {row["seed"]: row["held_out_bits_per_byte"] for row in rows if row["name"] == BASELINE}
    lines = [
        "| option | seeds | parameters | held-out loss (nats) | bits per byte | beside `learned` | plateau left at step "
        "| tokens per second |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in dict.fromkeys(row["name"] for row in rows):
        members = [row for row in rows if row["name"] == name]
        bits = [row["held_out_bits_per_byte"] for row in members]
        apart = [row["held_out_bits_per_byte"] - own[row["seed"]] for row in members if row["seed"] in own]
        steps = [left_at(row) for row in members]
        left = ", ".join("never" if step is None else f"{step:,}" for step in steps)
        if "pair_nats" not in members[0]["settings"]:
            left = "not measured"
        lines.append(
            f"| {name} | {len(members)} | {members[0]['parameters']:,} | {_spread([row['held_out_nats'] for row in members])} | "
            f"{_spread(bits)} | {'' if name == BASELINE else _spread(apart, sign='+')} | {left} | "
            f"{median(row['tokens_per_second'] for row in members):,.0f} |"
        )
    return "\n".join(lines) + "\n\nAfter \u00b1: the standard deviation over the seeds."


def _spread(values: list[float], sign: str = "") -> str:
    """The mean, and the standard deviation if there are several values."""
    return f"{mean(values):{sign}.4f}" + (f" \u00b1 {stdev(values):.4f}" if len(values) > 1 else "")


def draw(rows: list[dict], path: Path) -> None:
    """Draw mean loss curves, and below them their difference from the baseline; grey: the baseline's own seeds."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["name"] for row in rows))
    curves = {name: np.mean([row["losses"] for row in rows if row["name"] == name], axis=0) for name in names}
    own = {row["seed"]: np.array(row["losses"]) for row in rows if row["name"] == BASELINE}
    first, plateau = curves[BASELINE], rows[0]["settings"].get("pair_nats")
    steps = EVERY * (np.arange(len(first)) + 0.5)
    figure = Figure(figsize=(13, 6.2), layout="constrained")
    axes = figure.subplots(2, len(PANELS), sharex=True, sharey="row")
    for (title, members), (upper, lower) in zip(PANELS.items(), axes.T, strict=True):
        upper.plot(steps, first, color="black", linewidth=1.2, label=BASELINE)
        lower.axhline(0, color="black", linewidth=1.2)
        if plateau:
            upper.axhline(plateau, color="#999999", linewidth=0.9, linestyle=":", label="byte pairs")
        for losses in own.values():
            lower.plot(steps, losses - first, color="#999999", linewidth=0.9)
        for name, (colour, line) in zip([name for name in members if name in curves], STYLES, strict=False):
            style = {"color": colour, "linestyle": line, "linewidth": 2, "label": name}
            upper.plot(steps, curves[name], **style)
            lower.plot(steps, curves[name] - first, **style)
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
    """Do the missing measurements, then draw the picture and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, default=asset("data") / "text" / "sample.txt", help="a file or a folder")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="muon")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="NAME")
    parser.add_argument("--held-out-blocks", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--smoke", action="store_true", help="a few steps of two options, in a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        if arguments.smoke:
            vars(arguments).update(SMOKE, out=data / "variants.json")
        card = write_tokens(arguments.text, data, Tokenizer.of_bytes(), Pretrain(val_fraction=0.02), seed=1)
        settings = {
            "sources": list(card.sources),
            "train_bytes": card.bytes["train"],
            "steps": arguments.steps,
            "batch_size": 8,
            "held_out_blocks": arguments.held_out_blocks,
            "optimizer": arguments.optimizer,
            "lr": arguments.lr,
            "threads": 1,
            "shape": SHAPE,
            "pair_nats": round(pair_nats(data), 4),
        }
        done = read_json(arguments.out) if arguments.out.exists() else []
        for seed in range(1, arguments.seeds + 1):  # seed by seed, so that the table is complete after each seed
            for name in arguments.only:
                what = {"name": name, "seed": seed, "options": ROWS[name], "settings": settings}
                if not any(row.items() >= what.items() for row in done):
                    say(f"{name}, seed {seed}")
                    work = arguments.out.with_suffix(".work") / f"{name}-{seed}"
                    done.append(what | measure(name, seed, settings, data, work))
                    write_json(arguments.out, done)
                    shutil.rmtree(work)
        rows = [row for name in ROWS for row in done if row["name"] == name and row["settings"] == settings]
        draw(rows, arguments.out.with_suffix(".png"))
    print(table(rows))
    if stuck := sorted({row["name"] for row in rows if left_at(row) is None}):
        print(f"\nStill on the plateau of byte pairs: {', '.join(stuck)}. Give more --steps.")


if __name__ == "__main__":
    main()
