"""The task ``pretrain``: predict the next token of plain text, from scratch or on from any checkpoint."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from finetune.console import progress
from finetune.datasets.documents import iterate_pieces, text_files
from finetune.datasets.exclusion import Exclusion, evaluation_files, evaluation_rows
from finetune.datasets.packing import PackedTokens, TokenWriter, goes_to_val
from finetune.errors import DataError
from finetune.evaluation.language import compressors, language_metrics
from finetune.models.gpt import IGNORE
from finetune.models.heads import NextToken
from finetune.recipe import Pretrain, Train
from finetune.tokenizer import Tokenizer
from finetune.training.loop import Job


def write_tokens(path: Path, directory: Path, tokenizer: Tokenizer, settings: Pretrain, seed: int) -> dict:
    """Tokenize a file or a folder into ``train.bin`` and ``val.bin`` in bounded memory. Returns the data card's part.

    Held-out documents are drawn by a hash of their beginning; a text of a single document is cut at its paragraphs.
    Where the share of few documents is none, it is doubled until it is one. Documents that hold a row of the evaluation
    sets of ``pretrain.exclude`` are left out of both, and counted by source.
    """
    files = text_files(path)
    unknown = set(settings.shares) - {source_name(file) for file in files}
    if unknown:
        raise DataError("pretrain.shares names files that are not there", got=", ".join(sorted(unknown)),
                        known=", ".join(source_name(file) for file in files))
    exclusion = Exclusion(row for file in evaluation_files(settings.exclude) for row in evaluation_rows(file))
    writer, sources = _write_splits(files, directory, tokenizer, settings, seed, exclusion)
    while writer.tokens["val"] < 2 and settings.val_fraction < 0.5:
        settings = settings.model_copy(update={"val_fraction": 2 * settings.val_fraction})
        writer, sources = _write_splits(files, directory, tokenizer, settings, seed, exclusion)
    for split in ("train", "val"):
        if writer.tokens[split] < 2:
            raise DataError(f"{path}: too little text, nothing for the {split} part",
                            do="Give more text, or another pretrain.val_fraction.")
    found = {"documents": writer.documents, "tokens": writer.tokens, "bytes": writer.bytes, "sources": sources}
    if exclusion:
        found["excluded"] = {"rows": len(exclusion),
                             "documents": sum(source["excluded"] for source in sources.values())}
    return found


def _write_splits(files: list[Path], directory: Path, tokenizer: Tokenizer, settings: Pretrain, seed: int,
                  exclusion: Exclusion) -> tuple[TokenWriter, dict]:
    """One pass over the files: the closed writer with its counts, and the counts of each source.

    A document that is handed on in pieces is judged piece by piece: what follows one left out begins a document.
    """
    sources = {}
    with TokenWriter(directory, tokenizer) as writer, progress("tokenizing", None, unit="characters") as advance:
        for file in files:
            before = {split: (writer.documents[split], writer.tokens[split]) for split in writer.tokens}
            share = settings.shares.get(source_name(file), 1.0)
            excluded, held = 0, False
            for text, begins, split, times in _placed(file, settings, share, seed):
                begins = begins or held
                held = exclusion.holds(text)
                excluded += held
                for _ in range(0 if held else times):
                    writer.add(split, text, begins)
                advance(len(text))
            sources[source_name(file)] = {"share": share} | ({"excluded": excluded} if exclusion else {}) | {
                split: {"documents": writer.documents[split] - before[split][0],
                        "tokens": writer.tokens[split] - before[split][1]} for split in writer.tokens}
    return writer, sources


def write_evaluation_tokens(path: Path, directory: Path, tokenizer: Tokenizer) -> dict:
    """Tokenize a text that is only measured into ``eval.bin``. Returns its counts."""
    with TokenWriter(directory, tokenizer, splits=("eval",)) as writer:
        for file in text_files(path):
            begins = True
            for text, ends in iterate_pieces(file):
                writer.add("eval", text, begins)
                begins = ends
    return {"name": path.name, "tokens": writer.tokens["eval"], "bytes": writer.bytes["eval"]}


def source_name(file: Path) -> str:
    """A file's name without its endings: what ``pretrain.shares`` calls it."""
    return file.name.split(".")[0]


def _placed(file: Path, settings: Pretrain, share: float, seed: int) -> Iterator[tuple[str, bool, str, int]]:
    """(text, begins a document, split, times it is written) for each piece of a file."""
    begins, split, times = True, "train", 1
    for text, ends in _paragraphs(file) if _is_one_document(file) else iterate_pieces(file):
        if begins:
            split = "val" if goes_to_val(text, settings.val_fraction, seed) else "train"
            times = 1 if split == "val" else _times(text, share, seed)
        if times:
            yield text, begins, split, times
        begins = ends


def _times(text: str, share: float, seed: int) -> int:
    """How often a document is written for its source's share: 2.3 is twice, and a third time for 30 % of them."""
    digest = hashlib.sha256(f"share/{seed}/{text[:4096]}".encode("utf-8", "replace")).digest()
    return int(share) + (int.from_bytes(digest[:8], "big") < (share % 1) * 2**64)


def _is_one_document(file: Path) -> bool:
    pieces = iterate_pieces(file)
    begun = sum(1 for _ in zip(range(2), (ends for _, ends in pieces if ends), strict=False))
    return begun < 2


def _paragraphs(file: Path) -> Iterator[tuple[str, bool]]:
    """A single document in parts of 2,000 characters or some more, so that some of it can be held out.

    A part ends at an empty line; where none comes for as long again, at a line's end.
    """
    held = ""
    for text, _ in iterate_pieces(file):
        for line in text.splitlines(keepends=True):
            held += line
            if len(held) > (4000 if line.strip() else 2000):
                yield held, True
                held = ""
    if held:
        yield held, True


def build_job(model: NextToken, settings: Train, train: PackedTokens, val: PackedTokens, val_bytes_per_token: float,
              val_blocks: int, device: torch.device) -> Job:
    """Everything the loop needs; a row is a block of the packed tokens."""
    def batch(blocks: list[int]):
        return train.batch(blocks, IGNORE)

    def loss_sum(module: nn.Module, tensors):
        inputs, targets = tensors
        return module(inputs, targets, *train.layout(inputs))

    def validate(module: nn.Module) -> dict[str, float]:
        return measure(module, val, val_bytes_per_token, val_blocks, settings.micro_batch_tokens, device)

    lengths = [train.length(block) for block in range(len(train))]
    return Job(model, lengths, [float(length) for length in lengths], batch, loss_sum, validate,
               name_row=lambda block: f"block {block}",
               validation_tokens=min(val_blocks, len(val)) * val.context)


def measure(model: nn.Module, tokens: PackedTokens, bytes_per_token: float, most_blocks: int, budget: int,
            device: torch.device) -> dict[str, float]:
    """Loss per token in nats, perplexity and bits per byte, over blocks that are spread over all sources."""
    blocks = sorted({len(tokens) * i // most_blocks for i in range(most_blocks)})
    nats = block_nats(model, tokens, blocks, max(budget // tokens.context, 1), device)
    loss = float(nats.sum()) / sum(map(tokens.length, blocks))
    return {"log_loss": loss, "perplexity": math.exp(min(loss, 50.0)),
            "bits_per_byte": loss / math.log(2) / bytes_per_token}


@torch.no_grad()
def block_nats(model: nn.Module, tokens: PackedTokens, blocks: list[int], together: int,
               device: torch.device) -> np.ndarray:
    """The cross entropy of blocks in nats, summed over each `together` of them (one forward pass)."""
    sums = []
    for start in range(0, len(blocks), together):
        inputs, targets = (tensor.to(device) for tensor in tokens.batch(blocks[start:start + together], IGNORE))
        sums.append(float(model(inputs, targets, *tokens.layout(inputs))))
    return np.array(sums)


@dataclass(frozen=True)
class Sampling:
    """How the report's continuations are drawn."""

    temperature: float = 0.8
    top_k: int = 50
    seed: int = 1
    new_tokens: int = 60
    prompt_tokens: int = 24
    samples: int = 6


def evaluate(before: NextToken, after: NextToken, tokenizer: Tokenizer, parts: dict[str, dict[str, PackedTokens]],
             resamples: int, device: torch.device) -> dict:
    """Measure two states of a model on texts, beside compressors, and let both continue their beginnings.

    parts: for each text ("val", "eval") its sources by name. Returns eval.json's keys for a language model.
    """
    lengths = np.array(tokenizer.byte_lengths())
    models = {"before": before.eval(), "after": after.eval()}
    measured: dict[str, dict] = {"before": {}, "after": {}}
    sources = []
    for part, members in parts.items():
        counts = [tokens.length(block) for tokens in members.values() for block in range(len(tokens))]
        sizes = [int(lengths[tokens.targets(block)].sum()) for tokens in members.values()
                 for block in range(len(tokens))]
        for state, model in models.items():
            with progress(f"{part}, {state}", len(counts), unit="blocks") as advance:
                nats = [_nats(model, tokens, device, advance) for tokens in members.values()]
            measured[state][part] = language_metrics(np.concatenate(nats), counts, sizes, resamples)
            if part == "val":
                sources.append([float(own.sum()) for own in nats])
    val = parts["val"]
    texts = {name: tokenizer.decode_bytes(tokens.ids.tolist()) for name, tokens in val.items()}
    sampling = Sampling()
    return {
        "headline": {"metric": "bits_per_byte", **measured["after"]["val"]["bits_per_byte"], "split": "val"},
        "metrics": measured["after"]["val"], "before": measured["before"], "after": measured["after"],
        "compressors": compressors(b"".join(texts.values())),
        "sources": [{"name": name, "bytes": len(text), "before": bits[0] / math.log(2) / max(len(text), 1),
                     "after": bits[1] / math.log(2) / max(len(text), 1), "compressors": compressors(text)}
                    for (name, text), bits in zip(texts.items(), zip(*sources, strict=True), strict=True) if text],
        "samples": [_continue(models, tokenizer, tokens, sampling, device) for tokens in val.values()
                    if len(tokens.ids) > 2 * sampling.prompt_tokens][:sampling.samples],
        "sampling": asdict(sampling)}


def _nats(model: NextToken, tokens: PackedTokens, device: torch.device, advance) -> np.ndarray:
    found = []
    for block in range(len(tokens)):
        found.append(block_nats(model, tokens, [block], 1, device))
        advance(1)
    return np.concatenate(found)


def _continue(models: dict[str, NextToken], tokenizer: Tokenizer, tokens: PackedTokens, sampling: Sampling,
              device: torch.device) -> dict[str, str]:
    """One beginning and what each state of the model makes of it."""
    prompt = torch.from_numpy(tokens.ids[:sampling.prompt_tokens].astype(np.int64))[None].to(device)
    shown = {"prompt": tokenizer.decode_bytes(prompt[0].tolist()).decode("utf-8", "replace")}
    for state, model in models.items():
        ids = model.gpt.generate(prompt, sampling.new_tokens, temperature=sampling.temperature, top_k=sampling.top_k,
                                 seed=sampling.seed, end=tokenizer.end_of_text)
        shown[state] = tokenizer.decode_bytes(ids[0, prompt.shape[1]:].tolist()).decode("utf-8", "replace")
    return shown
