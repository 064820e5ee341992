"""Optimizer steps of a classifier on all weights: ours, and plain loops over transformers' model like its Trainer's.

Ours and `best` take the same rows of the bundled spam sample in the same batches, sorted by length within pools and
padded to the longest in the batch, as group_by_length does; `default` uses the Trainer's default, batches of eight in
random order, padded likewise. All use torch's fused AdamW, clipping at 1 and fp32; the plain loops omit the Trainer's own
overhead around a step, which favours them. The steps are stratified by length: as many short batches as long ones. Each
way has its own process, since a run keeps the memory that it frees; they take turns. Counts processor seconds, and real
tokens without padding. Used by short.py, and alone:

    python benchmarks/training_steps.py --weights FOLDER --steps 30 --rounds 5
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn

from finetune.checkpoints.store import load_checkpoint
from finetune.hub.assets import asset
from finetune.machine import keep_freed_memory
from finetune.recipe import Train
from finetune.tasks.classify.job import Examples, build_job, build_model, label_numbers
from finetune.tokenizer import Tokenizer
from finetune.training import loop
from finetune.training.batching import epoch_batches
from finetune.training.collate import pad_ids
from finetune.training.step import EagerSteps
from finetune.training.token_rows import encode
from finetune.training.trainable import freeze

WAYS = ("ours", "best", "default")
BATCH, DEFAULT_BATCH = 16, 8
Steps = Callable[[list[list[int]]], None]


def sample_rows(tokenizer: Tokenizer) -> Examples:
    """The bundled spam sample, tokenized."""
    lines = asset("data", "spam", "sample.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines if line.split("\t")[0] in ("ham", "spam")]
    labels = [pair[0] for pair in pairs]
    return Examples(
        list(range(len(pairs))),
        encode(tokenizer, [pair[1] for pair in pairs], 256),
        label_numbers(labels, sorted(set(labels))),
    )


def stratified(batches: list[list[int]], lengths: list[int], count: int) -> list[list[int]]:
    """`count` of the batches, evenly spaced from the shortest to the longest."""
    ordered = sorted(batches, key=lambda batch: max(lengths[row] for row in batch))
    return [ordered[at] for at in np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)]


def our_steps(weights: Path, rows: Examples) -> Steps:
    """A function that takes our steps on batches."""
    keep_freed_memory()
    model = build_model(load_checkpoint(weights).gpt, 2, 0)
    settings = Train(method="full", epochs=1, lr=1e-4, precision="fp32", threads=1, batch_size=BATCH)
    trainable = freeze(model, model.body, "full", 1)
    job = build_job(model, trainable, settings, rows, rows, torch.device("cpu"))
    accelerator, optimizers, _ = loop._start(job, settings)
    steps = EagerSteps(accelerator, accelerator.prepare(model), optimizers, job, settings)

    def take(batches: list[list[int]]) -> None:
        for number, batch in enumerate(batches):
            steps.take(batch, number, 0, settings.chosen_lr)

    return take


def plain_steps(weights: Path, rows: Examples) -> Steps:
    """A function that takes the steps of a plain loop on batches."""
    asked = {"num_labels": 2, "pad_token_id": 0, "dtype": torch.float32}
    model = transformers.GPT2ForSequenceClassification.from_pretrained(weights, **asked).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def take(batches: list[list[int]]) -> None:
        for batch in batches:
            ids, last = pad_ids([rows.ids[row] for row in batch])
            seen = (torch.arange(ids.shape[1]) <= last[:, None]).long()
            targets = torch.from_numpy(rows.targets[batch])
            model(ids, attention_mask=seen, labels=targets).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return take


def work(way: str, weights: Path, steps: int, turns: Connection) -> None:
    """One way in its own process: at each turn, take its steps and send their real tokens per processor second."""
    torch.set_num_threads(1)
    rows = sample_rows(Tokenizer.from_directory(weights))
    lengths = [len(row) for row in rows.ids]
    if way == "default":
        order = np.random.default_rng(0).permutation(len(lengths))
        batches = stratified(np.array_split(order, len(order) // DEFAULT_BATCH), lengths, steps)
    else:
        batches = stratified(epoch_batches(lengths, BATCH, 0, 0), lengths, steps)
    take = (our_steps if way == "ours" else plain_steps)(weights, rows)
    for _ in range(3):  # warm up: allocate memory
        take(batches[-1:])
    tokens = sum(lengths[row] for batch in batches for row in batch)
    turns.send("ready")
    while turns.recv():
        begun = time.process_time()
        take(batches)
        turns.send(tokens / (time.process_time() - begun))


def alternate(weights: Path, steps: int, rounds: int) -> dict[str, list[float]]:
    """Real tokens per processor second of `steps` steps: ours, best and default, in turn once per round."""
    started, found = multiprocessing.get_context("spawn"), {way: [] for way in WAYS}
    here: dict[str, Connection] = {}
    processes = []
    for way in WAYS:
        here[way], there = started.Pipe()
        processes.append(started.Process(target=work, args=(way, weights, steps, there), daemon=True))
        processes[-1].start()
        here[way].recv()
    for _ in range(rounds):
        for way, connection in here.items():
            connection.send(True)
            found[way].append(connection.recv())
    for connection, process in zip(here.values(), processes, strict=True):
        connection.send(False)
        process.join()
    return found


def ratio(found: dict[str, list[float]], rival: str) -> float:
    """The median over the rounds of the ratio of ours to a rival."""
    return statistics.median(a / b for a, b in zip(found["ours"], found[rival], strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=asset("weights", "mini"))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = alternate(arguments.weights, arguments.steps, arguments.rounds)
    print("real tokens per CPU second:", {name: [round(own, 1) for own in rates] for name, rates in found.items()})
    print({f"ratio to {rival}": round(ratio(found, rival), 2) for rival in ("best", "default")})


if __name__ == "__main__":
    main()
