"""A classifier's decision rule, from its card, and the cost of quantization on held-out rows, with its interval."""

import json
from dataclasses import dataclass, fields

import numpy as np

from finetune.evaluation.aims import Costs, upper_bound
from finetune.evaluation.calibration import decide, softmax
from finetune.evaluation.intervals import paired_bootstrap
from finetune.evaluation.label_sets import sigmoid
from finetune.export.exportable import Exportable
from finetune.records import Record

RESAMPLES, SEED = 2000, 0


@dataclass(frozen=True)
class Rule:
    """From logits to labels, as given in bundle.json."""

    labels: list[str]
    positive: str | None
    threshold: float | None
    thresholds: list[float] | None  # of each label, if a text may have many
    costs: Costs | None  # of each true and predicted label
    temperature: float

    @classmethod
    def of(cls, thing: Exportable) -> "Rule":
        """The rule of a classifier."""
        card = json.loads(thing.files["bundle.json"])
        return cls(**{field.name: card.get(field.name) for field in fields(cls)})

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (n, K)."""
        return softmax(logits, self.temperature) if self.thresholds is None else sigmoid(logits / self.temperature)

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """The index of each text's label (n,), or with many labels whether the text has each of them (n, K)."""
        if self.thresholds is not None:
            return probabilities >= np.array(self.thresholds)
        positive = self.labels.index(self.positive) if self.positive is not None else None
        return decide(probabilities, positive, self.threshold, self.costs)


@dataclass(frozen=True)
class Cost(Record):
    """A metric before and after quantization, and its change with the 95 % interval, on n held-out rows."""

    metric: str  # accuracy, or log_loss in nats per token
    before: float
    after: float
    change: float
    low: float
    high: float
    n: int

    def text(self) -> str:
        """The cost as the second half of a sentence."""
        if (
            self.metric == "accuracy" and self.low == self.high == 0
        ):  # no row changed: a bootstrap interval would have no width
            most = float(upper_bound(0, self.n, 0.95))
            return (
                f"accuracy {self.after:.4f} as in fp32: none of {self.n:,} held-out rows changed between right and wrong; "
                f"with 95 % confidence, at most {most:.1%} of all rows do"
            )
        name = {"log_loss": "loss per token"}.get(self.metric, self.metric)
        return (
            f"{name} {self.after:.4f} where fp32 has {self.before:.4f}, a change of {self.change:+.4f} "
            f"(95 % interval {self.low:+.4f} to {self.high:+.4f}) on {self.n:,} held-out rows"
        )


def equal_rows(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """bool (n,): whether each text has the same label in both, or with many labels exactly the same ones."""
    return (one == other).reshape(len(one), -1).all(axis=1)


def cost_in_accuracy(targets: np.ndarray | None, before: np.ndarray, after: np.ndarray) -> Cost | None:
    """The cost in accuracy, from decisions as ``Rule.decide`` returns them; None if no labels are known."""
    if targets is None or not len(targets):
        return None
    right, still = (equal_rows(decided, targets).astype(float) for decided in (before, after))
    return _cost("accuracy", right, still, np.ones(len(right)))


def cost_in_loss(before: np.ndarray, after: np.ndarray, tokens: np.ndarray) -> Cost | None:
    """The cost in loss per token, from each row's cross entropy in nats, summed over its tokens (n,); None without rows."""
    return _cost("log_loss", before, after, tokens) if len(tokens) else None


def _cost(metric: str, before: np.ndarray, after: np.ndarray, weights: np.ndarray) -> Cost:
    change = paired_bootstrap(after, before, RESAMPLES, SEED, weights)
    mean, after_mean = (float(own.sum() / weights.sum()) for own in (before, after))
    return Cost(metric, mean, after_mean, *change.known(), len(weights))
