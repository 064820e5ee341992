"""Optimizer steps of a classifier on all weights: ours, and a plain loop with transformers' model at its best settings.

Both take the same rows of the bundled spam sample in the same order, sorted by length within the same pools and padded to
the longest of the batch, which is what group_by_length gives; torch's fused AdamW, clipping at 1, fp32. The steps are
stratified by length: every part takes as many short batches as long ones. Used by short.py, and alone:

    python benchmarks/training_steps.py --weights FOLDER --steps 30 --rounds 5
"""

import argparse
import statistics
import time
from pathlib import Path

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

BATCH = 16


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


def alternate(weights: Path, steps: int, rounds: int) -> tuple[list[float], list[float]]:
    """Processor seconds of `steps` steps, ours and theirs, once a round in turn."""
    rows = sample_rows(Tokenizer.from_directory(weights))
    model = build_model(load_checkpoint(weights).gpt, 2, 0)
    settings = Train(method="full", epochs=1, lr=1e-4, precision="fp32", threads=1, batch_size=BATCH)
    trainable = freeze(model, model.body, "full", 1)
    job = build_job(model, trainable, settings, rows, rows, torch.device("cpu"))
    accelerator, optimizers, _ = loop._start(job, settings)
    steps_of = EagerSteps(accelerator, accelerator.prepare(model), optimizers, job, settings)
    batches = epoch_batches(job.lengths, BATCH, 0, 0)[:steps]

    theirs = transformers.GPT2ForSequenceClassification.from_pretrained(weights, num_labels=2, pad_token_id=0).train()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-4, fused=True)

    def ours() -> None:
        for number, batch in enumerate(batches):
            steps_of.take(batch, number, 0, settings.chosen_lr)

    def plain() -> None:
        for batch in batches:
            ids, last = pad_ids([rows.ids[row] for row in batch])
            seen = (torch.arange(ids.shape[1]) <= last[:, None]).long()
            targets = torch.from_numpy(rows.targets[batch])
            theirs(ids, attention_mask=seen, labels=targets).loss.backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    found: tuple[list[float], list[float]] = [], []
    for _ in range(rounds):
        for kept, work in zip(found, (ours, plain), strict=True):
            begun = time.process_time()
            work()
            kept.append(time.process_time() - begun)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=asset("weights", "mini"))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ours, theirs = alternate(arguments.weights, arguments.steps, arguments.rounds)
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    print(f"CPU seconds: ours {ours}, transformers {theirs}; ratio {statistics.median(ratios):.2f} {ratios}")


if __name__ == "__main__":
    main()
