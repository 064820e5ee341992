"""The bundle of a winner that is not the model: TF-IDF alone, which is predicted without torch, or averaged with the model."""

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.console import clean, escape_markdown
from finetune.errors import DataError, RunError, WeightsError
from finetune.evaluation.aims import Costs
from finetune.evaluation.choice import AVERAGE, FLOOR, TFIDF, average_logs
from finetune.evaluation.tfidf import TfidfModel, TfidfRecord
from finetune.files import MANIFEST, atomic_write, damage, read_json, write_json
from finetune.tables.cells import unescape_formula
from finetune.tasks.classify.predictor import Predictor

if TYPE_CHECKING:  # torch is loaded only where a bundle holds the model
    from finetune.export.exportable import Exportable, Exported
    from finetune.recipe import Recipe
    from finetune.run import Run
    from finetune.tasks.classify.bundle import BundleCard
    from finetune.tasks.classify.score import ClassifierEvaluation

TFIDF_FILES = ("tfidf.json", "tfidf.safetensors")
MODEL_FOLDER = "model"  # in the bundle of an average
CLOSE = 2e-6  # probabilities in predictions.csv are rounded


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
            f"{path}: not what an export writes", got=str(error)[:200], do="Export the run again."
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
    """The average of the log-probabilities of TF-IDF and of a model."""

    model: Predictor

    def logits(self, texts: list[str]) -> np.ndarray:
        """Log-probabilities (n, K), in fp64."""
        return average_logs(self.model.log_probabilities(self.model.logits(texts)), super().logits(texts))


def load_winner(directory: Path, card: "BundleCard", load_model: Callable[[Path], Predictor]) -> Predictor:
    """The bundle in a directory whose card names a winner. load_model: for the model's folder. Raises WeightsError."""
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
        raise WeightsError(f"{directory}: the model has other labels", do="Export the run again.")
    return AverageBundle(tfidf, card.labels, card.positive, card.threshold, *rule, model=model)


def export_winner(
    recipe: "Recipe", run: "Run", evaluation: "ClassifierEvaluation", exportable: Callable[..., "Exportable"]
) -> "Exported":
    """Write export/bundle/, read it back, and compare its probabilities with those of the evaluation.

    exportable: of a model and its tokenizer. Raises WeightsError if a probability is another one.
    """
    from finetune.export import hf
    from finetune.export.exportable import Exported, draft_of
    from finetune.tasks.classify.bundle import open_bundle
    from finetune.tasks.classify.export import run_card
    from finetune.tasks.classify.labelled import ClassifyPrepared
    from finetune.tasks.setup import best_model

    assert evaluation.choice is not None, "a winner was chosen"
    winner, directory = evaluation.choice.winner, run.path("export", "bundle")
    with draft_of(directory) as draft:
        draft.mkdir(parents=True)
        if winner == AVERAGE:
            hf.write(exportable(*best_model(recipe, run)), draft / MODEL_FOLDER)
        write_tfidf(draft, read_tfidf(run.directory))
        max_length = run.result("prepare", ClassifyPrepared).max_length
        card = run_card(run, recipe, evaluation, max_length, "", winner)
        write_json(draft / "bundle.json", card.to_json())
        texts, wanted = _predicted(run, card.labels)
        difference = float(np.abs(open_bundle(draft).predict(texts)[1] - wanted).max(initial=0.0))
        if not difference <= CLOSE:
            raise WeightsError(
                "the bundle gives other probabilities than the evaluation",
                got=f"{difference:.2e} apart",
                do="This is a fault of ours: please report it.",
            )
        exported = Exported(
            True,
            f"read back, the bundle gives the probabilities of predictions.csv on {len(texts):,} texts",
            difference,
        )
        said = clean(_readme(run, card, evaluation, exported))
        (draft / "README.md").write_text(said, encoding="utf-8", newline="\n")
    return exported


def _predicted(run: "Run", labels: list[str]) -> tuple[list[str], np.ndarray]:
    """The test texts of predictions.csv, and their probabilities (n, K)."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open(run.path("predictions.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    texts = [unescape_formula(row["text"]) for row in rows]
    return texts, np.array([[float(row[f"p_{label}"]) for label in labels] for row in rows]).reshape(-1, len(labels))


def _readme(run: "Run", card: "BundleCard", evaluation: "ClassifierEvaluation", exported: "Exported") -> str:
    """The README of a winner's bundle."""
    from finetune.tasks.classify.export import decision_text, facts_of, run_data
    from finetune.tasks.classify.score import subject

    choice = evaluation.choice
    assert choice is not None, "a winner was chosen"
    labels = ", ".join(map(escape_markdown, card.labels))
    reached = ", ".join(f"{name} {own.metric:.4f}" for name, own in choice.validation.items())
    lines = [
        f"# {escape_markdown(run.name)}",
        "",
        f"A text classifier with the labels {labels}, made by gpt2-finetune: {subject(evaluation)}.",
        "",
        f"- chosen on {choice.rows:,} validation texts by {choice.metric}: {reached}",
        *(f"- {fact}" for fact in facts_of(evaluation, run_data(run))),
        f"- {decision_text(card)}",
        f"- {exported.summary}",
        f"- {TFIDF_FILES[0]} holds words and parts of words of the training texts",
        "",
        "## Use",
        "",
        '    finetune predict DIRECTORY "a text"',
        "",
    ]
    return "\n".join(lines)
