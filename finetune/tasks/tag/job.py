"""Batches, loss and validation of a tagger, and its forward pass over many sentences."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.console import progress, unseen
from finetune.models.gpt import IGNORE
from finetune.recipe import Train
from finetune.tasks.tag.data import Tokens
from finetune.tasks.tag.model import Tagger
from finetune.tasks.tag.score import decode, entity_counts, scores_of
from finetune.tasks.tag.sentences import Sentence
from finetune.training.batching import inference_batches
from finetune.training.collate import pad_ids
from finetune.training.job import Job
from finetune.training.predict import PREDICT_TOKENS
from finetune.training.sharing import share


@dataclass(frozen=True)
class Examples:
    """A split's sentences, their tokens, and the tag number of each word that was not truncated."""

    sentences: list[Sentence]
    tokens: Tokens
    targets: list[list[int]]

    @classmethod
    def of(cls, sentences: list[Sentence], tokens: Tokens, tags: list[str]) -> "Examples":
        """tags: all tags; a tag's number is its position."""
        number = {tag: at for at, tag in enumerate(tags)}
        kept = tokens.lasts.lengths()
        targets = [[number[tag] for tag in own.tags[:most]] for own, most in zip(sentences, kept, strict=True)]
        return cls(sentences, tokens, targets)


def build_job(
    model: Tagger, settings: Train, tags: list[str], train: Examples, val: Examples, device: torch.device
) -> Job[Tagger]:
    """The job for the training loop; a sentence's weight is its number of words."""

    def batch(rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        ids, _ = pad_ids([train.tokens.pieces[row] for row in rows])
        lasts, _ = pad_ids([train.tokens.lasts[row] for row in rows])
        targets, _ = pad_ids([train.targets[row] for row in rows], pad=IGNORE)
        return ids, lasts, targets

    def loss_sum(module: nn.Module, tensors: tuple[Tensor, ...]) -> Tensor:
        ids, lasts, targets = tensors
        logits = module(ids, lasts).float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")

    def validate(module: Tagger) -> dict[str, float]:
        logits = predict_tags(module, val.tokens, settings.tokens_per_pass)
        loss = F.cross_entropy(
            torch.from_numpy(np.concatenate(logits)).double(), torch.tensor([tag for own in val.targets for tag in own])
        )
        predicted = decode(logits, tags, val.sentences)
        found = scores_of(entity_counts(val.sentences, predicted, tags))
        return {"log_loss": loss.item(), **{name: found[name] for name in ("accuracy", "f1", "f1_macro")}}

    return Job(
        model,
        train.tokens.pieces.lengths(),
        [float(len(own)) for own in train.targets],
        batch,
        loss_sum,
        validate,
        name_row=lambda at: str(train.sentences[at].row),
        validation_tokens=sum(val.tokens.pieces.lengths()),
        pads=(0, 0, IGNORE),
    )


def predict_tags(model: Tagger, tokens: Tokens, budget: int = PREDICT_TOKENS, show: str = "") -> list[np.ndarray]:
    """The tag logits (W, K) of each sentence's words that were not truncated, independent of batching."""
    device, lengths = model.head.weight.device, tokens.pieces.lengths()
    logits: list[np.ndarray] = [np.zeros((0, model.head.out_features), np.float32)] * len(lengths)
    bar = progress(show, len(lengths), unit="sentences") if show else nullcontext(unseen)
    batches = inference_batches(lengths, budget)
    with torch.inference_mode(), bar as advance:

        def compute(rows: list[int]) -> list[np.ndarray]:
            lasts = [tokens.lasts[row] for row in rows]
            found = model(*(pad_ids(part)[0].to(device) for part in ([tokens.pieces[row] for row in rows], lasts)))
            return [own[: len(at)] for own, at in zip(found.float().cpu().numpy(), lasts, strict=True)]

        shared = share(batches, compute, lambda rows: advance(len(rows)))
    for rows, found in zip(batches, shared, strict=True):
        for row, own in zip(rows, found, strict=True):
            logits[row] = own
    return logits


def word_loss(logits: Sequence[np.ndarray], targets: Sequence[Sequence[int]]) -> np.ndarray:
    """Each sentence's cross-entropy in nats, summed over its words (n,)."""
    return np.array(
        [
            F.cross_entropy(torch.from_numpy(own).double(), torch.tensor(list(wanted)), reduction="sum").item()
            for own, wanted in zip(logits, targets, strict=True)
        ]
    )
