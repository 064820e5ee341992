"""The training of a classifier: tokenized rows, batches, and the loss for one label per row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import psutil
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.console import say
from finetune.models.heads import Classifier, Reader
from finetune.models.transformer import Transformer
from finetune.recipe import FEATURES, Train
from finetune.tasks.classify.data import LabelledRow
from finetune.tokenizer import Tokenizer
from finetune.training.collate import pad_ids, pad_states
from finetune.training.job import Job, Problem
from finetune.training.pieces import CUT, Pieces, average
from finetune.training.precision import autocast
from finetune.training.predict import predict_logits, predict_states
from finetune.training.prefix_cache import build_prefix_cache, cache_bytes
from finetune.training.token_rows import TokenRows, encode
from finetune.training.trainable import Trainable

CACHE_LIMIT = 4 << 30  # maximum bytes of frozen states kept in memory; above it, frozen blocks run again in each epoch

ADVICE = "--set train.method=features needs only one pass over the texts and a logistic regression on the model's hidden states"


@dataclass(frozen=True)
class Examples:
    """Tokenized rows of one split."""

    rows: list[int]  # row numbers in the source file
    ids: TokenRows
    targets: np.ndarray  # label numbers (n,); with many labels per row, whether it has each (n, K)
    weights: np.ndarray | None = None  # weight of each row (n,) in the loss and the metrics; None: all equal
    pieces: np.ndarray | None = None  # number of pieces of each row (n,) in `ids`; None: one each

    def row_of_piece(self) -> np.ndarray:
        """The position (P,) of each piece's row."""
        return np.repeat(np.arange(len(self.rows)), 1 if self.pieces is None else self.pieces)

    def take(self, at: Sequence[int]) -> "Examples":
        """The rows at these positions, with all their pieces."""
        counts, ids = self.pieces, at
        if counts is not None:
            ends = np.cumsum(counts)
            ids = [piece for i in at for piece in range(ends[i] - counts[i], ends[i])]
        return Examples(
            [self.rows[i] for i in at],
            self.ids.take(ids),
            self.targets[at],
            None if self.weights is None else self.weights[at],
            None if counts is None else counts[at],
        )

    def beginnings(self) -> "Examples":
        """The rows with only their first piece, for callers that read one piece per row."""
        if self.pieces is None:
            return self
        first = (np.cumsum(self.pieces) - self.pieces).tolist()
        return Examples(self.rows, self.ids.take(first), self.targets, self.weights)

    def by_piece(self) -> "Examples":
        """Each piece as its own row; the weights of a row's pieces sum to the row's weight."""
        if self.pieces is None:
            return self
        at = self.row_of_piece()
        weights = (np.ones(len(self.rows)) if self.weights is None else self.weights) / self.pieces
        return Examples([self.rows[i] for i in at], self.ids, self.targets[at], weights[at])


@dataclass(frozen=True)
class Objective:
    """The training loss, and the validation metrics that choose the best checkpoint."""

    losses: Callable[[Tensor, Tensor], Tensor]  # logits (B, K), targets -> the loss of each row (B,)
    row_weights: np.ndarray  # weight (n,) of each training row in the loss; the pieces of a row share it
    validate: Callable[[np.ndarray], dict[str, float]]  # logits (n, K) of the validation rows -> metrics
    label_weights: np.ndarray | None = None  # weight (n, K) of each label of each training row, if they differ


def examples(
    records: Sequence[LabelledRow],
    labels: list[str],
    tokenizer: Tokenizer,
    max_length: int,
    targets: Callable[[list[str], list[str]], np.ndarray] | None = None,
    long_texts: str = CUT,
) -> Examples:
    """Tokenize one split's records. targets: the training targets of the rows' labels; by default their numbers."""
    read = Pieces.of(encode(tokenizer, [record.text for record in records]), long_texts, max_length)
    return Examples(
        [record.row for record in records],
        read.ids,
        (targets or label_numbers)([record.label for record in records], labels),
        pieces=read.counts,
    )


def predict_rows(model: Classifier, part: Examples, show: str = "") -> np.ndarray:
    """The logits (n, K) of rows, averaged over each row's pieces."""
    return average(predict_logits(model, part.ids, show=show), part.pieces)


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

    weights: of each row (n,); n and n_k are then sums of weights.
    """
    if kind == "none":
        return np.ones(classes)
    counts = np.bincount(targets, weights, minlength=classes)
    return counts.sum() / (classes * np.where(counts > 0, counts, 1))


def one_label(train: Examples, val: Examples, classes: int, settings: Train) -> Objective:
    """Cross entropy for one label per row, each class with its weight."""
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
    """Whether to run the frozen blocks once per text and keep their output: if that is exact and fits in memory."""
    limit = min(CACHE_LIMIT, psutil.virtual_memory().available // 4)
    exact = trainable.first_block > 0 and settings.dropout == 0 and settings.keep_states
    return settings.method == FEATURES or (exact and kept_bytes(model, trainable, ids) < limit)


@dataclass(frozen=True)
class Frozen:
    """The output of the frozen blocks for each text, (T, C); None if the blocks run in every step."""

    first_block: int  # the first block to run in a step; 0 if nothing is kept
    train: list[Tensor] | None = None
    val: list[Tensor] | None = None


def run_frozen(
    model: Classifier,
    trainable: Trainable,
    settings: Train,
    train: Examples,
    val: Examples,
    device: torch.device,
    cached: bool | None = None,
) -> Frozen:
    """Run the frozen blocks once per text if `cached` is true, or if it is None and ``keeps_states`` is true."""
    first = trainable.first_block
    if cached is None:
        cached = keeps_states(model, trainable, settings, train.ids + val.ids)
    if not cached:
        return Frozen(0)
    model.to(device).eval()
    last_only = first == len(model.body.blocks) and model.reads_last
    with autocast(settings.precision, device):
        states, val_states = (
            build_prefix_cache(
                lambda ids, last: model.lower(ids, last, first),
                part.ids,
                settings.tokens_per_pass,
                device,
                last_only=last_only,
            )
            for part in (train, val)
        )
    return Frozen(first, states, val_states)


def kept_bytes(model: Classifier, trainable: Trainable, ids: Sequence[list[int]]) -> int:
    """Memory of the frozen blocks' output for these texts; a decoder's head reads only the last position."""
    last_only = trainable.first_block == len(model.body.blocks) and model.reads_last
    return cache_bytes(ids, model.body.config.width, last_only)


def _weights_of_pieces(train: Examples, objective: Objective) -> np.ndarray:
    """The weight (P,) of each piece, or (P, K) of its labels: its row's weight in equal parts."""
    weights = objective.row_weights if objective.label_weights is None else objective.label_weights
    shares = weights if train.pieces is None else (weights.T / train.pieces).T
    found: np.ndarray = shares[train.row_of_piece()]
    return found


def build_job(
    model: Classifier,
    trainable: Trainable,
    settings: Train,
    train: Examples,
    val: Examples,
    device: torch.device,
    objective: Objective | None = None,
    frozen: Frozen | None = None,
) -> Job[Classifier]:
    """The job for the training loop. The default objective is one label per row.

    The loop's rows are pieces: each window of a long text is its own row.
    frozen: the output of the frozen blocks, by default from ``run_frozen``.
    """
    objective = objective or one_label(train, val, model.head.out_features, settings)
    pieces = replace(train, weights=objective.row_weights).by_piece()
    assert pieces.weights is not None
    weights = torch.from_numpy(pieces.weights).float()
    frozen = frozen or run_frozen(model, trainable, settings, train, val, device)
    states, start = frozen.train, frozen.first_block

    def batch(rows: list[int]) -> tuple[Tensor, ...]:
        inputs, last = (
            pad_ids([train.ids[i] for i in rows]) if states is None else pad_states([states[i] for i in rows])
        )
        return inputs, last, torch.from_numpy(pieces.targets[rows]), weights[rows]

    def loss_sum(module: nn.Module, tensors: tuple[Tensor, ...]) -> Tensor:
        inputs, last, targets, weight = tensors
        return (objective.losses(module(inputs, last, start).float(), targets) * weight).sum()

    def validate(module: Classifier) -> dict[str, float]:
        found = predict_logits(module, val.ids, frozen.val, start, budget=settings.tokens_per_pass)
        return objective.validate(average(found, val.pieces))

    if trainable.first_block > 0:
        say(
            f"  {trainable.first_block} frozen blocks "
            + (
                "run once per text; training starts from their output"
                if states is not None
                else "run in every step (dropout, keep_states = false, or too large to keep)"
            )
        )
    problem = None
    if settings.method == FEATURES:
        read = predict_states(model, train.ids, states, start, settings.tokens_per_pass)
        problem = Problem(model.head, read, pieces.targets, _weights_of_pieces(train, objective))
    return Job(
        model,
        train.ids.lengths(),
        pieces.weights.tolist(),
        batch,
        loss_sum,
        validate,
        name_row=lambda i: str(pieces.rows[i]),
        validation_tokens=sum(val.ids.lengths()),
        problem=problem,
        advice="" if settings.method in ("head", FEATURES) else ADVICE,
        pads=(0, None, None, None),
    )
