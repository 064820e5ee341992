"""Predict with a bundle: a directory with weights, tokenizer, label names and everything a prediction needs."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_expit, log_softmax, logit

from finetune.checkpoints.store import load_checkpoint
from finetune.console import progress
from finetune.errors import DataError, RunError, WeightsError, listed
from finetune.evaluation.calibration import decide, softmax
from finetune.evaluation.label_sets import indicators, label_set_metrics, set_probability, sigmoid
from finetune.evaluation.metrics import classification_metrics
from finetune.evaluation.results import Metric, StartWeights
from finetune.files import atomic_write, read_json
from finetune.models.heads import Classifier
from finetune.records import Record
from finetune.tables.cells import escape_formula, table_writer
from finetune.tables.detect import detect_format, without_header
from finetune.tables.label_sets import SEPARATOR, find_several, join_cells_of, join_decided, labels_in
from finetune.tables.readers import HEADER_NAMES, SAMPLE, find_unlabelled_text, join_cells
from finetune.tables.tables import iterate_table
from finetune.tokenizer import Tokenizer
from finetune.training.precision import device_type
from finetune.training.predict import predict_logits
from finetune.training.token_rows import encode

CHUNK = 1024  # rows in memory at a time


@dataclass(frozen=True, kw_only=True)
class BundleCard(Record):
    """The contents of ``bundle.json``: what a prediction needs besides weights and tokenizer."""

    schema_version: int
    task: str
    labels: list[str]
    positive: str | None
    columns: dict[str, str] = field(default_factory=dict)  # text and label, as the table that was learnt calls them
    max_length: int
    threshold: float | None
    thresholds: list[float] | None = None  # of each label, where a text may have many
    temperature: float
    weights: StartWeights
    tokenizer_sha256: str
    data_sha256: str
    recipe_sha256: str
    estimator: dict[str, Any] | None = None  # what TextClassifier.save adds


@dataclass(frozen=True)
class Bundle:
    """A classifier that is ready to use."""

    model: Classifier
    tokenizer: Tokenizer
    labels: list[str]
    positive: str | None
    max_length: int
    threshold: float | None
    temperature: float
    columns: dict[str, str] = field(default_factory=dict)  # text and label, as the table that was learnt calls them
    thresholds: list[float] | None = None  # of each label, where a text may have many

    @classmethod
    def load(cls, path: Path | str) -> "Bundle":
        """Read an exported bundle, or a run's; a ManyBundle where a text may have many labels.

        Raises WeightsError where parts do not belong together.
        """
        directory = bundle_directory(path)
        card = read_card(directory / "bundle.json")
        loaded = load_checkpoint(directory)
        if not isinstance(loaded.model, Classifier) or loaded.model.head.out_features != len(card.labels):
            raise WeightsError(f"{directory}: bundle.json does not fit the weights", got=f"{len(card.labels)} labels")
        if loaded.tokenizer.fingerprint() != card.tokenizer_sha256:
            raise WeightsError(
                f"{directory}: the tokenizer is not the one this model was trained with", do="Export the run again."
            )
        found = (
            loaded.model.to(device_type()),
            loaded.tokenizer,
            card.labels,
            card.positive,
            card.max_length,
            card.threshold,
            card.temperature,
            card.columns,
        )
        return cls(*found) if card.thresholds is None else ManyBundle(*found, card.thresholds)

    def logits(self, texts: list[str]) -> np.ndarray:
        """Raw logits (n, K), in fp32."""
        ids = encode(self.tokenizer, texts, self.max_length)
        empty = [i for i, row in enumerate(ids) if not row]
        if empty:
            raise DataError(f"text {empty[0]} is empty", do="Leave rows without text out.")
        return predict_logits(self.model, ids)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (n, K) of logits (n, K)."""
        return softmax(logits, self.temperature)

    def log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Their logarithms (n, K)."""
        found: np.ndarray = log_softmax(logits.astype(np.float64) / self.temperature, axis=1)
        return found

    def margins(self, logits: np.ndarray) -> np.ndarray:
        """Of two labels, the log-odds (n,) of the second beyond those of the threshold; of more, the logits (n, K)."""
        scaled = logits.astype(np.float64) / self.temperature
        if scaled.shape[1] != 2:
            return scaled
        threshold = 0.5 if self.threshold is None else self.threshold
        odds = logit(threshold if self.positive == self.labels[1] else 1 - threshold)
        found: np.ndarray = scaled[:, 1] - scaled[:, 0] - odds
        return found

    def name(self, probabilities: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Each row's label, the bundle's threshold applied, and its probability (n,)."""
        decided = self.decide(probabilities)
        return [self.labels[i] for i in decided], probabilities[np.arange(len(decided)), decided]

    def predict(self, texts: list[str]) -> tuple[list[str], np.ndarray]:
        """Labels and calibrated probabilities (n, K) of texts, the bundle's threshold applied."""
        probabilities = self.probabilities(self.logits(texts))
        return self.name(probabilities)[0], probabilities

    def shown(self, texts: list[str]) -> list[tuple[str, str]]:
        """For the screen: each text's label, and its probability."""
        names, sure = self.name(self.probabilities(self.logits(texts)))
        return [(label, f"{p:.4f}") for label, p in zip(names, sure, strict=True)]

    def column(self, what: str, given: str | None, names: list[str]) -> str | None:
        """The column of a table to read as text or label: the given one, else the one that was learnt if it is there.

        None where neither is: the table's own names and content tell it then.
        """
        learnt = self.columns.get(what, "")
        here = bool(learnt) and (learnt in names or all(part.strip() in names for part in learnt.split(",")))
        return given or (learnt if here else None)

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """The number (n,) of each row's label, the bundle's threshold applied."""
        return decide(probabilities, self._positive_at(), self.threshold)

    def read_labels(self, cells: list[str], where: str) -> tuple[list[str], set[str]]:
        """The label of each row from its cell in a table, and all labels that are there."""
        return cells, set(cells)

    def measure(self, labels_of_rows: list[str], logits: np.ndarray, resamples: int) -> dict[str, Metric]:
        """The metrics of logits (n, K) of rows with known labels, as ``read_labels`` gives them."""
        number = {label: i for i, label in enumerate(self.labels)}
        y, probabilities = np.array([number[own] for own in labels_of_rows]), self.probabilities(logits)
        decided = self.decide(probabilities)
        return classification_metrics(y, decided, probabilities, self.labels, self._positive_at(), resamples, seed=0)

    def _positive_at(self) -> int | None:
        return self.labels.index(self.positive) if self.positive else None


@dataclass(frozen=True)
class ManyBundle(Bundle):
    """A classifier of texts that may have any number of labels. Labels are joined as in tables/label_sets.py."""

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """The probability (n, K) of each label."""
        return sigmoid(logits / self.temperature)

    def log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Their logarithms (n, K)."""
        found: np.ndarray = log_expit(logits.astype(np.float64) / self.temperature)
        return found

    def margins(self, logits: np.ndarray) -> np.ndarray:
        """The log-odds (n, K) of each label beyond those of its threshold."""
        found: np.ndarray = logits.astype(np.float64) / self.temperature - logit(np.array(self.thresholds))
        return found

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Whether each row has each label (n, K)."""
        return probabilities >= np.array(self.thresholds)

    def read_labels(self, cells: list[str], where: str) -> tuple[list[str], set[str]]:
        """The joined labels of each row from its cell in a table, and all labels that are there."""
        rows = join_cells_of(cells, find_several(cells, asked=True), where)
        return rows, {label for own in set(rows) for label in labels_in(own)}

    def measure(self, labels_of_rows: list[str], logits: np.ndarray, resamples: int) -> dict[str, Metric]:
        """The metrics of logits (n, K) of rows with known labels, as ``read_labels`` gives them."""
        probabilities = self.probabilities(logits)
        truth = indicators([labels_in(own) for own in labels_of_rows], self.labels)
        return label_set_metrics(truth, self.decide(probabilities), probabilities, resamples, seed=0)

    def name(self, probabilities: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Each row's labels, joined, and the probability (n,) of these and no others, taken as independent."""
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


def bundle_directory(path: Path | str) -> Path:
    """Where a bundle's files stand: the directory itself, or a run's export. Raises WeightsError."""
    directory = Path(path) / "export" / "hf" if (Path(path) / "recipe.json").exists() else Path(path)
    if not (directory / "bundle.json").exists():
        writes = (directory / "model.safetensors").exists()
        raise WeightsError(
            f"{path}: not a bundle" + (", but weights that write" if writes else ""),
            known="a classifier's run, or its export/hf with bundle.json",
            do=f"Try: finetune generate {path} TEXT" if writes else "Finish the run: finetune run RECIPE --name NAME",
        )
    return directory


def read_card(path: Path) -> BundleCard:
    """A bundle's card. Raises WeightsError for a file that is none."""
    try:
        card = BundleCard.from_json(read_json(path), path)
    except RunError as error:
        raise WeightsError(f"{path}: not what an export writes", got=error.got, do="Export the run again.") from error
    fits = card.thresholds is None or len(card.thresholds) == len(card.labels)
    if card.positive not in (None, *card.labels) or not fits:
        raise WeightsError(
            f"{path}: not what an export writes",
            got=f"positive {card.positive!r}" if fits else f"{len(card.thresholds or [])} thresholds",
            known=listed(card.labels),
            do="Export the run again.",
        )
    return card


def added_columns(bundle: Bundle, names: list[str], source: Path | str) -> list[str]:
    """What a prediction adds to a table's columns. Raises DataError where one is there already."""
    added = ["predicted", "probability", *(f"p_{label}" for label in bundle.labels)]
    clash = [name for name in added if name in names]
    if clash:
        raise DataError(f"{source}: has columns that the output adds", got=", ".join(clash), do="Rename them first.")
    return added


def predict_table(
    bundle: Bundle, source: Path, target: Path, text: str | None, encoding: str | None = None, header: bool = True
) -> dict:
    """Predict a table row by row into another, columns and order kept, in bounded memory.

    It is read whole first, so that a row that cannot be read is known before hours of work, and how many there are.
    Adds predicted, probability and a p_ column for each label. Rows without text get empty cells. Text that a
    spreadsheet would run as a formula gets a leading apostrophe. header: false where the first row is data, too; its
    columns are then called column_1 and so on. Returns counts, and the columns that were read as the text.
    """
    if Path(target).resolve() == Path(source).resolve():
        raise DataError(f"{target}: the output would overwrite the input table", do="Give another --out.")
    layout = detect_format(source, encoding, HEADER_NAMES if header else frozenset()).layout
    if not header:
        layout = without_header(source, layout)
    total = sum(1 for _ in iterate_table(source, layout))
    table = iterate_table(source, layout)
    sample = list(itertools.islice(table, SAMPLE))
    if not sample:
        raise DataError(
            f"{source}: a header and no rows",
            got="no row to predict",
            do="Add rows; or give --no-header, if the first line is one.",
        )
    names = sample[0][0]
    added = added_columns(bundle, names, source)
    text_at = find_unlabelled_text(names, [cells for _, cells in sample], bundle.column("text", text, names), source)
    counts = {"rows": 0, "without_text": 0}
    rows = (cells for _, cells in itertools.chain(sample, table))
    with atomic_write(target) as file, progress("predicting", total, unit="rows") as advance:
        writer = table_writer(file, "\t" if target.suffix.lower() == ".tsv" else ",")
        writer.writerow([*map(escape_formula, names), *added])
        while chunk := list(itertools.islice(rows, CHUNK)):
            texts = [join_cells(cells, text_at) for cells in chunk]
            filled = [text for text in texts if text.strip()]
            probabilities = bundle.probabilities(bundle.logits(filled)) if filled else np.zeros((0, len(bundle.labels)))
            answers = iter(zip(*bundle.name(probabilities), probabilities, strict=True))
            for cells, own in zip(chunk, texts, strict=True):
                label, sure, p = next(answers) if own.strip() else ("", 0.0, None)
                numbers = [""] * (len(added) - 1) if p is None else [f"{value:.6f}" for value in (sure, *p)]
                writer.writerow([*map(escape_formula, cells), escape_formula(label), *numbers])
            counts["rows"] += len(chunk)
            counts["without_text"] += len(chunk) - len(filled)
            advance(len(chunk))
    return counts | {"text_column": ",".join(names[index] for index in text_at)}
