"""The predictors that may win over the model: TF-IDF alone, without torch, or averaged with the model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.errors import DataError, RunError, WeightsError
from finetune.evaluation.aims import Costs
from finetune.evaluation.choice import AVERAGE, FLOOR, TFIDF, average_logs
from finetune.evaluation.tfidf import TfidfModel, TfidfRecord
from finetune.files import MANIFEST, atomic_write, damage, read_json, write_json
from finetune.tasks.classify.predictor import Predictor

if TYPE_CHECKING:
    from finetune.tasks.classify.bundle import BundleCard

TFIDF_FILES = ("tfidf.json", "tfidf.safetensors")
MODEL_FOLDER = "model"  # the model's folder in the bundle of an average


def write_tfidf(directory: Path, model: TfidfModel) -> None:
    """Write tfidf.json and tfidf.safetensors."""
    from safetensors.numpy import save

    record, arrays = model.stored()
    write_json(directory / TFIDF_FILES[0], record.to_json())
    with atomic_write(directory / TFIDF_FILES[1], "wb") as file:
        file.write(save({name: np.ascontiguousarray(own) for name, own in arrays.items()}))


def read_tfidf(directory: Path) -> TfidfModel:
    """The model that ``write_tfidf`` wrote. Raises WeightsError for other files."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = directory / TFIDF_FILES[0]
    try:
        record = TfidfRecord.from_json(read_json(path), path)
        return TfidfModel.restore(record, load((directory / TFIDF_FILES[1]).read_bytes()))
    except (OSError, RunError, SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: not in the format of an export", got=str(error)[:200], do="Export the run again."
        ) from error


@dataclass(frozen=True)
class TfidfBundle(Predictor):
    """TF-IDF with logistic regression; no torch is loaded. Its logits are log-probabilities."""

    tfidf: TfidfModel
    labels: list[str]
    positive: str | None
    threshold: float | None
    columns: dict[str, str] = field(default_factory=dict)
    white_space: str = "keep"
    costs: Costs | None = None
    abstain_below: float | None = None
    temperature: float = 1.0
    thresholds: list[float] | None = None

    def logits(self, texts: list[str]) -> np.ndarray:
        """Log-probabilities (n, K), in fp64."""
        folded = list(map(self.folded, texts))
        if "" in folded:
            raise DataError(f"text {folded.index('')} is empty", do="Leave rows without text out.")
        found: np.ndarray = np.log(np.maximum(self.tfidf.probabilities(folded), FLOOR))
        return found


@dataclass(frozen=True, kw_only=True)
class AverageBundle(TfidfBundle):
    """The averaged log-probabilities of TF-IDF and a model."""

    model: Predictor

    def logits(self, texts: list[str]) -> np.ndarray:
        """Log-probabilities (n, K), in fp64."""
        return average_logs(self.model.log_probabilities(self.model.logits(texts)), super().logits(texts))


def load_winner(directory: Path, card: "BundleCard", load_model: Callable[[Path], Predictor]) -> Predictor:
    """The bundle in a directory whose card names a winner. load_model: loads the model's folder. Raises WeightsError."""
    if (directory / MANIFEST).exists() and (why := damage(directory)):
        raise WeightsError(f"{directory}: this bundle is damaged or was edited", got=why, do="Export it again.")
    tfidf = read_tfidf(directory)
    if tfidf.classes != len(card.labels) or card.winner not in (TFIDF, AVERAGE):
        raise WeightsError(
            f"{directory}: bundle.json does not fit {TFIDF_FILES[0]}", got=f"{len(card.labels)} labels, {card.winner}"
        )
    rule = card.columns, card.white_space, card.costs, card.abstain_below
    if card.winner == TFIDF:
        return TfidfBundle(tfidf, card.labels, card.positive, card.threshold, *rule)
    model = load_model(directory / MODEL_FOLDER)
    if model.labels != card.labels:
        raise WeightsError(
            f"{directory}: the model's labels differ from those in bundle.json", do="Export the run again."
        )
    return AverageBundle(tfidf, card.labels, card.positive, card.threshold, *rule, model=model)
