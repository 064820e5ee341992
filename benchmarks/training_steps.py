"""Optimizer steps of a classifier on all weights: ours, and plain loops with transformers' model as its Trainer would.

Ours and `best` take the same rows of the bundled spam sample in the same batches, sorted by length within pools and padded
to the longest of the batch, which is what group_by_length gives; `default` takes the Trainer's default, batches of eight in
random order, padded likewise. All use torch's fused AdamW, clipping at 1 and fp32; the plain loops leave out what the
Trainer itself does around a step, which favours them. The steps are stratified by length: as many short batches as long
ones. Seconds of the processor, and real tokens, without padding. Used by short.py, and alone:

    python benchmarks/training_steps.py --weights FOLDER --steps 30 --rounds 5
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn

from finetune.checkpoints.store import load_checkpoint
from finetune.hub.assets import asset
from finetune.recipe import Train
from finetune.tasks.classify.job import Examples, build_job, build_model, label_numbers
from finetune.tokenizer import Tokenizer
from finetune.training import loop
from finetune.training.batching import epoch_batches
from finetune.training.collate import pad_ids
from finetune.training.step import EagerSteps
from finetune.training.token_rows import encode
from finetune.training.trainable import freeze

BATCH, DEFAULT_BATCH = 16, 8


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
    """So many of the batches, evenly from the shortest to the longest."""
    ordered = sorted(batches, key=lambda batch: max(lengths[row] for row in batch))
    return [ordered[at] for at in np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)]


def alternate(weights: Path, steps: int, rounds: int) -> dict[str, list[float]]:
    """Real tokens per processor second of `steps` steps: ours, best and default, once a round in turn."""
    rows = sample_rows(Tokenizer.from_directory(weights))
    model = build_model(load_checkpoint(weights).gpt, 2, 0)
    settings = Train(method="full", epochs=1, lr=1e-4, precision="fp32", threads=1, batch_size=BATCH)
    trainable = freeze(model, model.body, "full", 1)
    job = build_job(model, trainable, settings, rows, rows, torch.device("cpu"))
    accelerator, optimizers, _ = loop._start(job, settings)
    steps_of = EagerSteps(accelerator, accelerator.prepare(model), optimizers, job, settings)
    grouped = stratified(epoch_batches(job.lengths, BATCH, 0, 0), job.lengths, steps)
    random = np.random.default_rng(0).permutation(len(job.lengths))
    any_order = stratified(np.array_split(random, len(random) // DEFAULT_BATCH), job.lengths, steps)

    theirs = transformers.GPT2ForSequenceClassification.from_pretrained(weights, num_labels=2, pad_token_id=0).train()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-4, fused=True)

    def ours(batches: list[list[int]]) -> None:
        for number, batch in enumerate(batches):
            steps_of.take(batch, number, 0, settings.chosen_lr)

    def plain(batches: list[list[int]]) -> None:
        for batch in batches:
            ids, last = pad_ids([rows.ids[row] for row in batch])
            seen = (torch.arange(ids.shape[1]) <= last[:, None]).long()
            targets = torch.from_numpy(rows.targets[batch])
            theirs(ids, attention_mask=seen, labels=targets).loss.backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    ways = {"ours": (ours, grouped), "best": (plain, grouped), "default": (plain, any_order)}
    for work, batches in ways.values():
        work(batches[:1])
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (work, batches) in ways.items():
            begun = time.process_time()
            work(batches)
            seconds = time.process_time() - begun
            found[name].append(sum(job.lengths[row] for batch in batches for row in batch) / seconds)
    return found


def ratio(found: dict[str, list[float]], rival: str) -> float:
    """Ours over a rival, the median over the rounds."""
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
