"""Small trials before the bundled checkpoint is trained: shape, learning rate and batch.

    python weights/mini_trials.py FOLDER_OF_TEXTS --tokenizer DIR --text EVALUATION_TEXT --work DIR [--only NAME ...]

Each trial adds one row to weights/mini-next/trials.jsonl and is not run again; the card's table is made from those
rows. All trials are measured on the same held-out documents, and on a text that no trial reads.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch

from finetune.files import read_json
from finetune.hub.assets import asset
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import LossModule
from finetune.pipeline import load_pipeline
from finetune.tasks.pretrain.documents import write_evaluation_tokens, write_tokens
from finetune.tasks.pretrain.job import block_nll, build_job
from finetune.tasks.pretrain.packing import PackedTokens
from finetune.tasks.pretrain.results import TextCounts
from finetune.tokenizer import Tokenizer
from finetune.training.loop import train

ROWS = asset("weights") / "mini-next" / "trials.jsonl"
RECIPE = load_pipeline("pretrain-mini").recipe
CONTEXT = RECIPE.shape.context
LEAST_TOKENS = 4000  # of held-out text, for a source to have a figure of its own
MOST_BLOCKS = 12  # of a source's held-out text that are measured
TOKENS = 262_144


def trial(layers: int = 6, width: int = 256, heads: int = 4, **settings) -> dict:
    """What a trial differs in; the rest is the same for all."""
    return {
        "tokens": TOKENS,
        "layers": layers,
        "width": width,
        "heads": heads,
        "mix": "today",
        "train": {"optimizer": "muon", "lr": 4e-3, "batch_size": 16} | settings,
    }


TRIALS = {
    "6x256": trial(),
    "lr-2e-3": trial(lr=2e-3),
    "lr-8e-3": trial(lr=8e-3),
    "8x256": trial(layers=8),
    "6x320": trial(width=320, heads=5),
    "batch-8": trial(batch_size=8),
}


def run_trial(name: str, texts: Path, tokenizer: Tokenizer, text: Path, work: Path) -> dict:
    """Train once; returns the trial's row."""
    wanted = TRIALS[name]
    data = work / "data"
    if not (data / "card.json").exists():
        data.mkdir(parents=True)
        card = write_tokens(texts, data, tokenizer, RECIPE.pretrain, RECIPE.split.seed)
        write_evaluation_tokens(text, data, tokenizer)
        (data / "card.json").write_text(json.dumps(card.to_json()))
    card = TextCounts.from_json(read_json(data / "card.json"), data / "card.json")

    def packed(split: str, start: int = 0, stop: int | None = None) -> PackedTokens:
        return PackedTokens(
            data / f"{split}.bin", CONTEXT, tokenizer.vocab_size, tokenizer.end_of_text, start=start, stop=stop
        )

    gpt = GPT(GPTConfig(tokenizer.vocab_size, CONTEXT, wanted["width"], wanted["layers"], wanted["heads"]))
    model = LossModule(gpt.initialise(1))
    batch = wanted["train"]["batch_size"]
    settings = RECIPE.train.model_copy(
        update={
            "epochs": 1,
            "evaluations_per_epoch": 1,
            "max_steps": wanted["tokens"] // (batch * CONTEXT),
            "warmup_fraction": 0.1,
            "decay_fraction": 0.2,
            "precision": "fp32",
            **wanted["train"],
        }
    )
    job = build_job(
        model, settings, packed("train"), packed("val"), card.bytes["val"] / card.tokens["val"], 64, torch.device("cpu")
    )
    found = train(job, settings, work / name, {})
    lengths, own, offset = np.array(tokenizer.byte_lengths()), {}, 0
    for source, counts in card.sources.items():
        size = counts.val.tokens
        if size >= LEAST_TOKENS:
            own[source] = _bits(model, packed("val", offset, offset + size), lengths, MOST_BLOCKS)
        offset += size
    return {
        "name": name,
        **{key: wanted[key] for key in ("layers", "width", "heads", "mix", "tokens")},
        **wanted["train"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(found.seconds, 1),
        "steps": found.steps,
        "held_out": sum(own.values()) / len(own),
        text.stem: _bits(model, packed("eval"), lengths),
        "sources": own,
    }


def _bits(model: LossModule, tokens: PackedTokens, lengths: np.ndarray, most: int = 100) -> float:
    """Bits per byte over at most `most` blocks."""
    blocks = sorted({len(tokens) * i // most for i in range(most)})
    nats = block_nll(model.eval(), tokens, blocks, 4, torch.device("cpu")).sum()
    return float(nats) / math.log(2) / sum(int(lengths[tokens.targets(block)].sum()) for block in blocks)


def main() -> None:
    """Run the named trials, or all that have no row yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(TRIALS), metavar="NAME")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_directory(arguments.tokenizer)
    for name in arguments.only:
        done = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.exists() else []
        if name not in {json.loads(line)["name"] for line in done}:
            row = run_trial(name, arguments.texts, tokenizer, arguments.text, arguments.work)
            with open(ROWS, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
