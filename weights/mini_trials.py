"""Small trials before the bundled checkpoint is trained: shape, learning rate, optimizer, batch and mix of the sources.

    python weights/mini_trials.py FOLDER_OF_TEXTS --tokenizer DIR --text EVALUATION_TEXT --work DIR [--only NAME ...]

Each trial adds one row to weights/mini/trials.jsonl and is not run again; the card's table and scaling plot are made
from those rows. All trials are measured on the same held-out documents, and on a text that no trial reads.
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
from finetune.models.heads import NextToken
from finetune.pipeline import load_pipeline
from finetune.recipe import Train
from finetune.tasks.pretrain.documents import write_evaluation_tokens, write_tokens
from finetune.tasks.pretrain.job import block_nats, build_job
from finetune.tasks.pretrain.packing import PackedTokens
from finetune.tasks.pretrain.results import TextCounts
from finetune.tokenizer import Tokenizer
from finetune.training.loop import train

ROWS = asset("weights") / "mini" / "trials.jsonl"
CONTEXT = 256
LEAST_TOKENS = 4000  # of held-out text, for a source to have a figure of its own
FIRST_MIX = {"novels_1830-1930": 0.15, "tinyshakespeare": 0.0, "c4_sample": 3.0, "wikipedia_mixed": 2.0, "masc": 2.0,
             "mailing_list_ham": 3.0, "wordnet_glosses": 0.3, "tatoeba_english": 1.0, "fortunes": 1.0,
             "dialogues_sgd": 0.6, "devils_dictionary_jargon": 0.5}
AS_IT_COMES = {"tinyshakespeare": 0.0}
MIXES = {"first": FIRST_MIX, "as it comes": AS_IT_COMES, "today": load_pipeline("pretrain-mini")[0].pretrain.shares}


def trial(tokens: int, layers: int = 6, width: int = 256, heads: int = 4, mix: str = "today", **settings) -> dict:
    """What a trial differs in; the rest is the same for all."""
    return {"tokens": tokens, "layers": layers, "width": width, "heads": heads, "mix": mix,
            "train": {"optimizer": "muon", "lr": 4e-3, "batch_size": 8} | settings}


TRIALS = {
    # The first checkpoint's settings, then one thing changed at a time.
    "adamw-1.5e-3": trial(524_288, optimizer="adamw", lr=1.5e-3),
    "adamw-3e-3": trial(524_288, optimizer="adamw", lr=3e-3),
    "muon-2e-3": trial(524_288, lr=2e-3),
    "muon-4e-3": trial(524_288),
    "muon-8e-3": trial(524_288, lr=8e-3),
    "muon-batch-16": trial(524_288, batch_size=16),
    "mix-first": trial(524_288, mix="first"),
    "mix-as-it-comes": trial(524_288, mix="as it comes"),
    # As many parameters as scale-4x128, in other shapes.
    "deep-8x96": trial(524_288, layers=8, width=96, heads=2),
    "wide-2x160": trial(524_288, layers=2, width=160, heads=2),
} | {f"scale-{layers}x{width}-{tokens >> 10}k": trial(tokens, layers, width, heads)
     for layers, width, heads in ((3, 96, 2), (4, 128, 2), (5, 192, 3), (6, 256, 4))
     for tokens in (262_144, 524_288, 1_048_576) if (width, tokens) != (256, 524_288)}


def run_trial(name: str, texts: Path, tokenizer: Tokenizer, text: Path, work: Path) -> dict:
    """Train once; returns the trial's row."""
    wanted = TRIALS[name]
    data = work / wanted["mix"].replace(" ", "-")
    if not (data / "card.json").exists():
        data.mkdir(parents=True)
        recipe = load_pipeline("pretrain-mini")[0]
        settings = recipe.pretrain.model_copy(update={"shares": MIXES[wanted["mix"]]})
        card = write_tokens(texts, data, tokenizer, settings, recipe.split.seed)
        write_evaluation_tokens(text, data, tokenizer)
        (data / "card.json").write_text(json.dumps(card.to_json()))
    card = TextCounts.from_json(read_json(data / "card.json"), data / "card.json")

    def packed(split: str, start: int = 0, stop: int | None = None) -> PackedTokens:
        return PackedTokens(data / f"{split}.bin", CONTEXT, tokenizer.vocab_size, tokenizer.end_of_text, start=start,
                            stop=stop)
    gpt = GPT(GPTConfig(tokenizer.vocab_size, CONTEXT, wanted["width"], wanted["layers"], wanted["heads"]))
    model = NextToken(gpt.initialise(1))
    batch = wanted["train"]["batch_size"]
    settings = Train(method="full", epochs=1, max_steps=wanted["tokens"] // (batch * CONTEXT), metric="log_loss",
                     micro_batch_tokens=2048, min_lr_fraction=0.02, warmup_fraction=0.05, beta_2=0.98,
                     precision="bf16", threads=1, **wanted["train"])
    job = build_job(model, settings, packed("train"), packed("val"),
                             card.bytes["val"] / card.tokens["val"], 64, torch.device("cpu"))
    found = train(job, settings, work / name, {})
    lengths, own, offset = np.array(tokenizer.byte_lengths()), {}, 0
    for source, counts in card.sources.items():
        size = counts.val.tokens
        if size >= LEAST_TOKENS:
            own[source] = _bits(model, packed("val", offset, offset + size), lengths)
        offset += size
    return {"name": name, **{key: wanted[key] for key in ("layers", "width", "heads", "mix", "tokens")},
            **wanted["train"], "parameters": sum(p.numel() for p in model.parameters()),
            "seconds": round(found["seconds"], 1), "steps": found["steps"], "held_out": sum(own.values()) / len(own),
            text.stem: _bits(model, packed("eval"), lengths), "sources": own}


def _bits(model: NextToken, tokens: PackedTokens, lengths: np.ndarray, most: int = 100) -> float:
    """Bits per byte over at most `most` blocks."""
    blocks = sorted({len(tokens) * i // most for i in range(most)})
    with torch.autocast("cpu", torch.bfloat16):
        nats = block_nats(model.eval(), tokens, blocks, 8, torch.device("cpu")).sum()
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
