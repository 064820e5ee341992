"""Make weights/mini from a finished `pretrain-mini` run: the checkpoint in fp16, its figures and its card.

    python weights/make_mini.py RUN --text FOLDER_OF_EVALUATION_TEXTS

Every figure of the card is taken from the training log and the figures that are kept beside it.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch

from finetune.checkpoints.store import load_checkpoint, write_checkpoint
from finetune.datasets.documents import text_files
from finetune.datasets.packing import PackedTokens
from finetune.models.heads import NextToken
from finetune.tasks import pretrain
from finetune.training import resume

HERE = Path(__file__).parent / "mini"
# What each source is, and under which licence its text stands; weights/mini learnt from nothing else.
SOURCES = {
    "c4_sample": ("web pages, C4 sample", "ODC-BY"),
    "devils_dictionary_jargon": ("The Devil's Dictionary and the Jargon File", "public domain"),
    "dialogues_sgd": ("Schema-Guided Dialogue, task dialogues", "CC BY-SA 4.0"),
    "fortunes": ("short quotations, Debian's fortunes", "BSD"),
    "mailing_list_ham": ("public mailing lists of 2002, the ham of SpamAssassin's corpus", "PDDL 1.0 / CC0 1.0"),
    "masc": ("MASC: blogs, mail, letters, news, transcripts", "open, any use"),
    "novels_1830-1930": ("English novels, 1830 to 1930", "public domain"),
    "openstax_textbooks": ("OpenStax textbooks, before the licence change of 2026", "CC BY 4.0"),
    "tatoeba_english": ("Tatoeba, English sentences", "CC BY 2.0"),
    "tinyshakespeare": ("Shakespeare (held-out text only)", "public domain"),
    "us_presidents_speeches": ("speeches of US presidents", "public domain"),
    "wikipedia_mixed": ("paragraphs of English Wikipedia", "CC BY-SA 3.0/4.0"),
    "wordnet_glosses": ("WordNet 3.0 glosses", "WordNet licence"),
}


def measure(run: Path, texts: Path) -> dict:
    """The figures of a run: held-out text by source, the evaluation texts, beside compressors, with samples."""
    base = load_checkpoint(run / "base")
    before, after = NextToken(base.model), NextToken(load_checkpoint(run / "base").model)
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    resume.load_weights(resume.step_directory(run / "checkpoints", best["step"]), after)
    config, tokenizer = base.model.config, base.tokenizer
    card = json.loads((run / "data" / "card.json").read_text())

    def packed(path: Path, start: int = 0, stop: int | None = None) -> PackedTokens:
        return PackedTokens(path, config.context, config.vocab_size, tokenizer.end_of_text, start=start, stop=stop)
    parts: dict[str, dict] = {"val": {}}
    offset = 0
    for name, counts in card["sources"].items():
        if size := counts["val"]["tokens"]:
            parts["val"][name] = packed(run / "data" / "val.bin", offset, offset + size)
            offset += size
    for file in text_files(texts):
        folder = run / "data" / file.stem
        folder.mkdir(exist_ok=True)
        pretrain.write_evaluation_tokens(file, folder, tokenizer)
        parts[file.stem] = {file.stem: packed(folder / "eval.bin")}
    found = pretrain.evaluate(before, after, tokenizer, parts, 1000, torch.device("cpu"))
    for file in text_files(texts):
        found.setdefault("texts", {})[file.stem] = {"bytes": file.stat().st_size,
                                                    "compressors": pretrain.compressors(file.read_bytes())}
    recipe = json.loads((run / "recipe.json").read_text())
    kept = {key: recipe[key] for key in ("train", "shape", "pretrain")}
    kept["shape"].pop("tokenizer")
    write_checkpoint(HERE, after.gpt, tokenizer, dtype=torch.float16)
    return {"recipe": kept, "best_step": best["step"], "tokens": card["tokens"], "sources_read": card["sources"],
            **found}


def card_text(figures: dict, log: list[dict]) -> str:
    """The card, every number from the figures and the log."""
    steps = [entry for entry in log if "loss" in entry]
    seen = sum(entry["tokens"] for entry in steps if entry["step"] <= figures["best_step"])
    shape, train = figures["recipe"]["shape"], figures["recipe"]["train"]
    total = sum(source["train"]["tokens"] for source in figures["sources_read"].values())
    read = [f"| {name} | {SOURCES[name][0]} | {SOURCES[name][1]} | {source['train']['tokens'] / total:.1%} |"
            for name, source in figures["sources_read"].items()]
    held_out = {entry["name"]: entry for entry in figures["sources"]}
    bits = [f"| {name} | {entry['bytes']:,} | {entry['after']:.3f} | {entry['compressors'][0]['bits_per_byte']:.3f} | "
            f"{entry['compressors'][1]['bits_per_byte']:.3f} |" for name, entry in held_out.items()]
    worse: list[str] = []
    for name, entry in figures["texts"].items():
        packed, own = entry["compressors"], figures["after"][name]["bits_per_byte"]["value"]
        worse += [name] if own > 0.85 * packed[0]["bits_per_byte"] else []
        bits.append(f"| {name} (never seen) | {entry['bytes']:,} | {own:.3f} | {packed[0]['bits_per_byte']:.3f} | "
                    f"{packed[1]['bits_per_byte']:.3f} |")
    all_texts = figures["after"]["val"]["bits_per_byte"]
    curve = [f"| {entry['step']:,} | {entry['validation']['log_loss']:.3f} | "
             f"{entry['validation']['bits_per_byte']:.3f} |" for entry in log if "validation" in entry]
    samples = [f"> {sample['prompt'].strip()} **{sample['after'].strip()}**".replace("\n", " ")
               for sample in figures["samples"]]
    return "\n".join([
        "# mini", "",
        f"A small GPT-2, pretrained from scratch by this project's `pretrain-mini`: {shape['layers']} layers, width "
        f"{shape['width']}, {shape['heads']} heads, context {shape['context']}, a byte-level BPE of its own, weights "
        "in fp16. It is what every pipeline starts from where GPT-2 cannot be had.", "",
        f"It has read {seen:,} tokens, {seen / total:.0%} of one pass over the text below, in {figures['best_step']:,} "
        f"steps of {train['batch_size']} sequences, in {steps[-1]['seconds'] / 60:.0f} minutes on one CPU thread. That "
        "is little: it is a first version, undertrained, to be replaced.", "",
        "## Data", "", "| source | what | licence | share of the tokens |", "|---|---|---|---|", *read, "",
        "The weights stand under CC BY-SA 4.0, the strictest of these licences. The SMS Spam Collection is not among "
        "the sources.", "", "## Bits per byte", "",
        f"Held-out text in all: {all_texts['value']:.3f} (95 % interval {all_texts['low']:.3f} to "
        f"{all_texts['high']:.3f}). The compressors see each text alone.", "",
        "| text | bytes | mini | bz2 -9 | xz -9e |", "|---|---:|---:|---:|---:|", *bits, "",
        *([f"On {', '.join(worse)} it misses the aim of 0.85 of bz2's bits: more training, and more of such text, is "
           "what it lacks.", ""] if worse else []),
        "## Training", "", "| step | validation loss (nats a token) | bits per byte |", "|---:|---:|---:|", *curve, "",
        "The log of every step stands in train.jsonl, the figures in figures.json; `weights/make_mini.py` wrote this "
        "card from them.", "", "## Samples", "", "Held-out beginnings, continued at temperature 0.8, top-k 50:", "",
        *[line for sample in samples for line in (sample, "")],
        "## Limits", "", "English only. It writes sentences that look like English and say nothing; it knows no "
        "facts and follows no instructions. Its use is as a start for fine-tuning on a laptop.", ""])


def read_log(path: Path) -> list[dict]:
    """The lines of a training log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Write weights/mini."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    arguments = parser.parse_args()
    figures = measure(arguments.run, arguments.text)
    (HERE / "figures.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copy(arguments.run / "train.jsonl", HERE / "train.jsonl")
    (HERE / "README.md").write_text(card_text(figures, read_log(HERE / "train.jsonl")), encoding="utf-8")


if __name__ == "__main__":
    main()
