"""From a classifier's logits to probabilities, decisions, label names and metrics."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.aims import ABSTAIN, Costs, decided_rows
from finetune.evaluation.calibration import decide, softmax
from finetune.evaluation.label_sets import indicators, label_set_metrics, set_probability, sigmoid
from finetune.evaluation.metrics import classification_metrics
from finetune.evaluation.results import Metric
from finetune.tables.label_sets import SEPARATOR, find_several, join_cells_of, join_decided, labels_in
from finetune.tables.white_space import fold_white_space


class Predictor(ABC):
    """A classifier that is ready to use."""

    labels: list[str]
    positive: str | None
    threshold: float | None
    thresholds: list[float] | None  # of each label, if a text may have many
    costs: Costs | None  # of each true and predicted label; the label of the least expected cost is predicted
    abstain_below: float | None  # abstain if the predicted label's probability is lower
    temperature: float
    columns: dict[str, str]  # text and label, as the training table calls them
    white_space: str  # keep or fold

    @abstractmethod
    def logits(self, texts: list[str]) -> np.ndarray:
        """Raw logits (n, K), in fp32. Raises DataError for an empty text."""

    def any_logits(self, texts: list[str]) -> np.ndarray:
        """As ``logits``, but also for an empty list."""
        return self.logits(texts) if texts else np.zeros((0, len(self.labels)))

    def folded(self, text: str) -> str:
        """A text as the model reads it."""
        return fold_white_space(text) if self.white_space == "fold" else text

    def column(self, what: str, given: str | None, names: list[str]) -> str | None:
        """The column of a table to read as text or label: the given one, else that of the training table, if the table has it.

        None if there is neither: then it is detected from the table's names and content.
        """
        learnt = self.columns.get(what, "")
        here = bool(learnt) and (learnt in names or all(part.strip() in names for part in learnt.split(",")))
        return given or (learnt if here else None)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (n, K) of logits (n, K)."""
        return softmax(logits, self.temperature)

    def log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Their logarithms (n, K)."""
        from scipy.special import log_softmax

        found: np.ndarray = log_softmax(logits.astype(np.float64) / self.temperature, axis=1)
        return found

    def margins(self, logits: np.ndarray) -> np.ndarray:
        """For two labels, the log-odds (n,) of the second minus those of the threshold; else the logits (n, K)."""
        from scipy.special import logit

        scaled = logits.astype(np.float64) / self.temperature
        if scaled.shape[1] != 2:
            return scaled
        threshold = 0.5 if self.threshold is None else self.threshold
        odds = logit(threshold if self.positive == self.labels[1] else 1 - threshold)
        found: np.ndarray = scaled[:, 1] - scaled[:, 0] - odds
        return found

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """The number (n,) of each row's label, by the bundle's threshold or costs."""
        return decide(probabilities, self._positive_at(), self.threshold, self.costs)

    def name(self, probabilities: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Each row's label under the bundle's threshold, and its probability (n,)."""
        decided = self.decide(probabilities)
        return [self.labels[i] for i in decided], probabilities[np.arange(len(decided)), decided]

    def predict(self, texts: list[str]) -> tuple[list[str], np.ndarray]:
        """Labels under the bundle's threshold, and calibrated probabilities (n, K), of texts."""
        probabilities = self.probabilities(self.logits(texts))
        return self.name(probabilities)[0], probabilities

    def shown(self, texts: list[str]) -> list[tuple[str, str]]:
        """For the screen: each text's label and its probability, and the decision if the bundle may abstain."""
        names, sure = self.name(self.probabilities(self.logits(texts)))
        return [
            (label, "\t".join([f"{p:.4f}", *self.decisions([label], [p])]))
            for label, p in zip(names, sure, strict=True)
        ]

    def decisions(self, names: Sequence[str], sure: ArrayLike) -> list[str]:
        """Each row's label, or ``abstain``, from its probability (n,); nothing if the bundle never abstains."""
        if self.abstain_below is None:
            return []
        decided = decided_rows(np.asarray(sure), self.abstain_below)
        return [name if is_decided else ABSTAIN for name, is_decided in zip(names, decided, strict=True)]

    def read_labels(self, cells: list[str], where: str) -> tuple[list[str], set[str]]:
        """The label of each row from its cell in a table, and the set of all labels in them."""
        return cells, set(cells)

    def measure(self, labels_of_rows: list[str], logits: np.ndarray, resamples: int) -> dict[str, Metric]:
        """The metrics of logits (n, K) of rows with known labels, as ``read_labels`` returns them."""
        number = {label: i for i, label in enumerate(self.labels)}
        y, probabilities = np.array([number[own] for own in labels_of_rows]), self.probabilities(logits)
        decided = self.decide(probabilities)
        return classification_metrics(y, decided, probabilities, self.labels, self._positive_at(), resamples, seed=0)

    def _positive_at(self) -> int | None:
        return self.labels.index(self.positive) if self.positive else None


class ManyLabels(Predictor):
    """A classifier of texts that may have any number of labels. Labels are joined as in tables/label_sets.py."""

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """The probability (n, K) of each label."""
        return sigmoid(logits / self.temperature)

    def log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Their logarithms (n, K)."""
        from scipy.special import log_expit

        found: np.ndarray = log_expit(logits.astype(np.float64) / self.temperature)
        return found

    def margins(self, logits: np.ndarray) -> np.ndarray:
        """The log-odds (n, K) of each label minus those of its threshold."""
        from scipy.special import logit

        found: np.ndarray = logits.astype(np.float64) / self.temperature - logit(np.array(self.thresholds))
        return found

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Whether each row has each label (n, K)."""
        return probabilities >= np.array(self.thresholds)

    def name(self, probabilities: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Each row's labels, joined, and the probability (n,) of exactly these labels, assuming that they are independent."""
        decided = self.decide(probabilities)
        return join_decided(self.labels, decided), set_probability(probabilities, decided)

    def shown(self, texts: list[str]) -> list[tuple[str, str]]:
        """For the screen: each text's labels, and the probability of each of them."""
        probabilities = self.probabilities(self.logits(texts))
        names, _ = self.name(probabilities)
        return [
            (own, SEPARATOR.join(f"{value:.4f}" for value in p[has]))
            for own, p, has in zip(names, probabilities, self.decide(probabilities), strict=True)
        ]

    def read_labels(self, cells: list[str], where: str) -> tuple[list[str], set[str]]:
        """The joined labels of each row from its cell in a table, and the set of all labels in them."""
        rows = join_cells_of(cells, find_several(cells, asked=True), where)
        return rows, {label for own in set(rows) for label in labels_in(own)}

    def measure(self, labels_of_rows: list[str], logits: np.ndarray, resamples: int) -> dict[str, Metric]:
        """The metrics of logits (n, K) of rows with known labels, as ``read_labels`` returns them."""
        probabilities = self.probabilities(logits)
        truth = indicators([labels_in(own) for own in labels_of_rows], self.labels)
        return label_set_metrics(truth, self.decide(probabilities), probabilities, resamples, seed=0)
