"""The training of a classifier: tokenized rows, batches, and the loss of one label a row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.console import say
from finetune.models.heads import Classifier, Reader
from finetune.models.transformer import Transformer
from finetune.recipe import Train
from finetune.tasks.classify.data import LabelledRow
from finetune.tokenizer import Tokenizer
from finetune.training.collate import pad_ids, pad_states
from finetune.training.loop import Job, autocast
from finetune.training.predict import predict_logits
from finetune.training.prefix_cache import build_prefix_cache, cache_bytes
from finetune.training.token_rows import TokenRows, encode
from finetune.training.trainable import Trainable

CACHE_LIMIT = 4 << 30  # bytes of frozen states kept in memory at most; above it the blocks run anew in each epoch


@dataclass(frozen=True)
class Examples:
    """Tokenized rows of one split."""

    rows: list[int]  # row numbers in the source file
    ids: TokenRows
    targets: np.ndarray  # label numbers (n,); under many labels, whether a row has each (n, K)
    weights: np.ndarray | None = None  # of each row (n,), in the loss and the metrics; None: all the same


@dataclass(frozen=True)
class Objective:
    """What is minimised, and what chooses the best checkpoint."""

    losses: Callable[[Tensor, Tensor], Tensor]  # of each row (B,), of logits (B, K) and targets
    row_weights: np.ndarray  # (n,) of the training rows in the loss
    validate: Callable[[np.ndarray], dict[str, float]]  # of the validation rows' logits (n, K)


def examples(
    records: Sequence[LabelledRow],
    labels: list[str],
    tokenizer: Tokenizer,
    max_length: int,
    targets: Callable[[list[str], list[str]], np.ndarray] | None = None,
) -> Examples:
    """Tokenize one split's records. targets: what is learnt of each label of a row; its number where it is not given."""
    return Examples(
        [record.row for record in records],
        encode(tokenizer, [record.text for record in records], max_length),
        (targets or label_numbers)([record.label for record in records], labels),
    )


def label_numbers(labels_of_rows: list[str], labels: list[str]) -> np.ndarray:
    """The number (n,) of each row's label."""
    number = {label: i for i, label in enumerate(labels)}
    return np.array([number[label] for label in labels_of_rows])


def build_model(body: Reader, classes: int, seed: int) -> Classifier:
    """The model with a fresh head in place of its output matrix."""
    if isinstance(body, Transformer):
        body.drop_output()
    return Classifier(body, classes).initialise_head(seed)


def class_weights(targets: np.ndarray, classes: int, kind: str, weights: np.ndarray | None = None) -> np.ndarray:
    """The weight of each class in the loss (K,): ones, or n / (K * n_k) as scikit-learn's `balanced`.

    weights: of each row (n,); n and n_k are sums of them then.
    """
    if kind == "none":
        return np.ones(classes)
    counts = np.bincount(targets, weights, minlength=classes)
    return counts.sum() / (classes * np.where(counts > 0, counts, 1))


def one_label(train: Examples, val: Examples, classes: int, settings: Train) -> Objective:
    """Cross entropy of one label a row, each class with its weight."""
    weights = class_weights(train.targets, classes, settings.class_weights, train.weights)[train.targets]
    if train.weights is not None:
        weights = weights * train.weights

    def losses(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="none")

    def validate(logits: np.ndarray) -> dict[str, float]:
        found = losses(torch.from_numpy(logits).double(), torch.from_numpy(val.targets))
        guessed, names, weighted = logits.argmax(1), list(range(classes)), {"sample_weight": val.weights}
        return {
            "log_loss": float(np.average(found.numpy(), weights=val.weights)),
            "accuracy": float(accuracy_score(val.targets, guessed, **weighted)),
            "f1_macro": float(
                f1_score(val.targets, guessed, average="macro", labels=names, zero_division=0, **weighted)
            ),
        }

    return Objective(losses, weights, validate)


def keeps_states(model: Classifier, trainable: Trainable, settings: Train, ids: Sequence[list[int]]) -> bool:
    """Whether the frozen blocks run once per text and their output is kept: where that is exact and fits in memory."""
    limit = min(CACHE_LIMIT, psutil.virtual_memory().available // 4)
    return trainable.first_block > 0 and settings.dropout == 0 and kept_bytes(model, trainable, ids) < limit


def kept_bytes(model: Classifier, trainable: Trainable, ids: Sequence[list[int]]) -> int:
    """Memory of the frozen blocks' output for these texts; a decoder's head reads no position but the last."""
    last_only = trainable.first_block == len(model.body.blocks) and model.reads_last
    return cache_bytes(ids, model.body.config.width, last_only)


def build_job(
    model: Classifier,
    trainable: Trainable,
    settings: Train,
    train: Examples,
    val: Examples,
    device: torch.device,
    cached: bool | None = None,
    objective: Objective | None = None,
) -> Job[Classifier]:
    """Everything the loop needs; the objective is one label a row where none is given.

    `cached`: as ``keeps_states`` says of these rows where it is not given.
    """
    objective = objective or one_label(train, val, model.head.out_features, settings)
    row_weights = torch.from_numpy(objective.row_weights).float()
    first = trainable.first_block
    if cached is None:
        cached = keeps_states(model, trainable, settings, train.ids + val.ids)
    states = val_states = None
    if cached:
        model.to(device).eval()
        with autocast(settings.precision, device):
            states, val_states = (
                build_prefix_cache(
                    lambda ids, last: model.lower(ids, last, first),
                    part.ids,
                    settings.micro_batch_tokens,
                    device,
                    last_only=first == len(model.body.blocks) and model.reads_last,
                )
                for part in (train, val)
            )
    start = first if cached else 0

    def batch(rows: list[int]) -> tuple[Tensor, ...]:
        inputs, last = (
            pad_ids([train.ids[i] for i in rows]) if states is None else pad_states([states[i] for i in rows])
        )
        return inputs, last, torch.from_numpy(train.targets[rows]), row_weights[rows]

    def loss_sum(module: nn.Module, tensors: tuple[Tensor, ...]) -> Tensor:
        inputs, last, targets, weight = tensors
        return (objective.losses(module(inputs, last, start).float(), targets) * weight).sum()

    def validate(module: Classifier) -> dict[str, float]:
        return objective.validate(
            predict_logits(module, val.ids, val_states, start, budget=settings.micro_batch_tokens)
        )

    if first > 0:
        say(
            f"  {first} frozen blocks "
            + (
                "run once per text; training starts from their output"
                if cached
                else "run in every step (dropout, or too large to keep)"
            )
        )
    return Job(
        model,
        train.ids.lengths(),
        objective.row_weights.tolist(),
        batch,
        loss_sum,
        validate,
        name_row=lambda i: str(train.rows[i]),
        validation_tokens=sum(val.ids.lengths()),
        pads=(0, None, None, None),
    )
