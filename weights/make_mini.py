"""Make weights/mini from a finished `pretrain-mini` run: the checkpoint in fp16, its figures and its card.

    python weights/make_mini.py RUN --text FOLDER_OF_EVALUATION_TEXTS
    python weights/make_mini.py             the card and its pictures alone

Every figure of the card is taken from the training log and the figures that are kept beside it: mini_card.py.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch

from finetune.checkpoints.store import load_checkpoint, write_checkpoint
from finetune.evaluation.language import compressors
from finetune.evaluation.results import Start
from finetune.files import read_json, write_manifest
from finetune.models.heads import LossModule
from finetune.tasks.pretrain.documents import text_files, write_evaluation_tokens
from finetune.tasks.pretrain.job import evaluate
from finetune.tasks.pretrain.packing import PackedTokens
from finetune.tasks.pretrain.results import LanguageEvaluation, TextCard
from finetune.training import resume

sys.path.insert(0, str(Path(__file__).parent))
from mini_card import HERE, card_text, draw, read_rows  # noqa: E402

FIGURES = ("headline", "metrics", "before", "after", "compressors", "sources", "samples", "sampling")  # of eval.json


def measure(run: Path, texts: Path) -> dict:
    """The figures of a run: held-out text by source, the evaluation texts, beside compressors, with samples."""
    base = load_checkpoint(run / "base")
    before, after = LossModule(base.model), LossModule(load_checkpoint(run / "base").model)
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    resume.load_weights(resume.step_directory(run / "checkpoints", best["step"]), after)
    config, tokenizer = base.model.config, base.tokenizer
    card, own = (
        kind.from_json(read_json(path), path)
        for kind, path in ((TextCard, run / "data" / "card.json"), (LanguageEvaluation, run / "eval.json"))
    )

    def packed(path: Path, start: int = 0, stop: int | None = None) -> PackedTokens:
        return PackedTokens(path, config.context, config.vocab_size, tokenizer.end_of_text, start=start, stop=stop)

    parts: dict[str, dict] = {"val": {}}
    offset = 0
    for name, counts in card.sources.items():
        if size := counts.val.tokens:
            parts["val"][name] = packed(run / "data" / "val.bin", offset, offset + size)
            offset += size
    for file in text_files(texts):
        folder = run / "data" / file.stem
        folder.mkdir(exist_ok=True)
        write_evaluation_tokens(file, folder, tokenizer)
        parts[file.stem] = {file.stem: packed(folder / "eval.bin")}
    start = Start(own.method, own.weights)
    found = evaluate(before, after, tokenizer, parts, 1000, torch.device("cpu"), start).to_json()
    of_texts = {
        file.stem: {
            "bytes": file.stat().st_size,
            "compressors": [one.to_json() for one in compressors(file.read_bytes())],
        }
        for file in text_files(texts)
    }
    recipe = json.loads((run / "recipe.json").read_text())
    kept = {key: recipe[key] for key in ("train", "shape", "pretrain")}
    kept["shape"].pop("tokenizer")
    write_checkpoint(HERE, after.body, tokenizer, dtype=torch.float16)
    write_manifest(HERE)
    return {
        "recipe": kept,
        "best_step": best["step"],
        "tokens": card.tokens,
        "sources_read": {name: counts.to_json() for name, counts in card.sources.items()},
        "excluded": card.excluded and card.excluded.to_json(),
        **{key: found[key] for key in FIGURES},
        "texts": of_texts,
    }


def main() -> None:
    """Write weights/mini; without a run, the card alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="leave it out to rewrite the card")
    parser.add_argument("--text", type=Path, help="a folder of texts that the model was not trained on")
    arguments = parser.parse_args()
    if arguments.run:
        figures = measure(arguments.run, arguments.text)
        (HERE / "figures.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        shutil.copy(arguments.run / "train.jsonl", HERE / "train.jsonl")
    figures = json.loads((HERE / "figures.json").read_text(encoding="utf-8"))
    log, trials = read_rows(HERE / "train.jsonl"), read_rows(HERE / "trials.jsonl")
    draw(log, trials)
    (HERE / "README.md").write_text(card_text(figures, log, trials), encoding="utf-8")


if __name__ == "__main__":
    main()
