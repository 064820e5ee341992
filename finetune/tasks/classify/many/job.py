"""The training of a classifier with many labels per row."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.evaluation.label_sets import LabelSetCounts, choose_thresholds, indicators, sigmoid
from finetune.recipe import Train
from finetune.tables.label_sets import labels_in
from finetune.tasks.classify.job import Examples, Objective


def label_indicators(labels_of_rows: list[str], labels: list[str]) -> np.ndarray:
    """Whether each row has each label: float32 (n, K), as the loss expects. labels_of_rows: joined labels."""
    return indicators([labels_in(joined) for joined in labels_of_rows], labels)


def positive_weights(train: Examples, kind: str) -> np.ndarray:
    """The weight (K,) of the rows with each label: ones; with `balanced`, rows without it / rows with it."""
    if kind == "none":
        return np.ones(train.targets.shape[1])
    weights = np.ones(len(train.rows)) if train.weights is None else train.weights
    having = weights @ train.targets
    return np.where((having > 0) & (having < weights.sum()), weights.sum() - having, 1) / np.where(
        having > 0, having, 1
    )


def many_labels(train: Examples, val: Examples, settings: Train) -> Objective:
    """Binary cross entropy with logits, averaged over rows and labels, as in transformers' multi_label_classification.

    The F1 of a validation uses each label's best threshold on the validation rows.
    """
    positive = torch.from_numpy(positive_weights(train, settings.class_weights)).float()

    def losses(logits: Tensor, targets: Tensor) -> Tensor:
        weight = positive.to(logits.device)
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none").mean(dim=1)

    def validate(logits: np.ndarray) -> dict[str, float]:
        known = torch.from_numpy(val.targets).double()
        found = F.binary_cross_entropy_with_logits(torch.from_numpy(logits).double(), known, reduction="none").mean(
            dim=1
        )
        probabilities = sigmoid(logits)
        decided = probabilities >= choose_thresholds(val.targets, probabilities, "max-f1", val.weights)
        counts = np.ones(len(val.rows)) if val.weights is None else val.weights
        scores = LabelSetCounts(val.targets, decided).scores(counts[None])
        loss = float(np.average(found.numpy(), weights=val.weights))
        return {"log_loss": loss, "f1_macro": float(scores["f1_macro"][0])}

    weights = np.ones(len(train.rows)) if train.weights is None else train.weights
    each = weights[:, None] * np.where(train.targets > 0, positive.numpy(), 1.0)
    return Objective(losses, weights, validate, each)
