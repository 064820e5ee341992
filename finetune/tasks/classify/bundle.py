"""Predict with a bundle: a directory with weights, tokenizer, label names and everything a prediction needs.

A bundle in ONNX is predicted without torch.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from pydantic import Field

from finetune.console import progress
from finetune.errors import DataError, RunError, WeightsError, listed, shorten
from finetune.evaluation.aims import Costs
from finetune.evaluation.choice import MODEL
from finetune.evaluation.results import StartWeights
from finetune.files import MANIFEST, damage, read_json
from finetune.records import Record
from finetune.run import Run
from finetune.tables.detect import detect_format, without_header
from finetune.tables.readers import HEADER_NAMES, SAMPLE, TEXT_NAMES, find_unlabelled_text, join_cells
from finetune.tables.tables import TableFormat, as_cell, iterate_table, iterate_values, with_fields
from finetune.tables.writers import open_writer
from finetune.tasks.classify.predictor import ManyLabels, Predictor
from finetune.tasks.classify.winner import load_winner
from finetune.training.sharing import chunks, lead

if TYPE_CHECKING:  # torch is loaded only for a bundle with torch weights
    from finetune.export.standalone import OnnxClassifier
    from finetune.models.heads import Classifier
    from finetune.tokenizer import Tokenizer

CHUNK = 1024  # rows in memory at a time
REPLACING_SECONDS = 2.0  # maximum wait for an export that is just replacing an earlier one
ONNX = "model.onnx"


@dataclass(frozen=True, kw_only=True)
class BundleCard(Record):
    """The content of ``bundle.json``: everything for a prediction besides weights and tokenizer."""

    schema_version: int
    task: str
    labels: Annotated[list[str], Field(min_length=2)]
    positive: str | None
    columns: dict[str, str] = field(default_factory=dict)  # text and label, as the training table calls them
    max_length: Annotated[int, Field(ge=1)]
    threshold: Annotated[float | None, Field(allow_inf_nan=False)]
    thresholds: list[Annotated[float, Field(allow_inf_nan=False)]] | None = None  # per label, if a text may have many
    aim: str = "half"  # the aim that the decision rule was chosen for
    costs: list[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]] | None = None  # for more than two labels
    abstain_below: Annotated[float | None, Field(allow_inf_nan=False)] = None
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    weights: StartWeights
    tokenizer_sha256: str
    data_sha256: str
    recipe_sha256: str
    white_space: str = "keep"  # or fold: a text's white space is folded before it is read
    long_texts: Annotated[str, Field(pattern="^(cut|head-tail|windows)$")] = "cut"  # as classify.long_texts
    estimator: dict[str, Any] | None = None  # added by TextClassifier.save
    winner: str = MODEL  # the predictor in the bundle, if not the model


_Loaded = TypeVar("_Loaded", bound=Predictor)


@dataclass(frozen=True)
class Bundle(Predictor):
    """A classifier in torch."""

    model: "Classifier"
    tokenizer: "Tokenizer"
    labels: list[str]
    positive: str | None
    max_length: int
    threshold: float | None
    temperature: float
    columns: dict[str, str] = field(default_factory=dict)
    white_space: str = "keep"
    thresholds: list[float] | None = None
    long_texts: str = "cut"
    costs: Costs | None = None
    abstain_below: float | None = None

    @classmethod
    def load(cls, path: Path | str) -> "Bundle":
        """Read an exported bundle, or a run's; a ManyBundle if a text may have many labels.

        Raises WeightsError if its parts do not belong together.
        """
        return _settled(path, lambda: cls._load(path))

    @classmethod
    def _load(cls, path: Path | str, mapped: bool = False) -> "Bundle":
        from finetune.checkpoints.layouts import load_directory
        from finetune.models.heads import Classifier
        from finetune.training.precision import device_type

        directory = bundle_directory(path)
        card = read_card(directory / "bundle.json")
        if card.winner != MODEL:
            raise WeightsError(
                f"{directory}: contains no model",
                got=f"{card.winner}, chosen on validation",
                do=f"Use finetune predict, or export the model: finetune export {path} --part model",
            )
        loaded = load_directory(directory, mapped=mapped)
        if not isinstance(loaded.model, Classifier) or loaded.model.head.out_features != len(card.labels):
            raise WeightsError(f"{directory}: bundle.json does not fit the weights", got=f"{len(card.labels)} labels")
        if loaded.tokenizer.fingerprint() != card.tokenizer_sha256:
            raise WeightsError(
                f"{directory}: the tokenizer is not the one this model was trained with", do="Export the run again."
            )
        return bundle_of(card, loaded.model.to(device_type()), loaded.tokenizer)

    def logits(self, texts: list[str]) -> np.ndarray:
        """Raw logits (n, K), in fp32: of a text in windows, the mean over them."""
        from finetune.training.pieces import Pieces, average
        from finetune.training.predict import predict_logits
        from finetune.training.token_rows import encode

        ids = encode(self.tokenizer, list(map(self.folded, texts)))
        empty = [i for i, length in enumerate(ids.lengths()) if not length]
        if empty:
            raise DataError(f"text {empty[0]} is empty", do="Leave rows without text out.")
        read = Pieces.of(ids, self.long_texts, self.max_length)
        return average(predict_logits(self.model, read.ids), read.counts)


@dataclass(frozen=True)
class ManyBundle(ManyLabels, Bundle):
    """A classifier in torch of texts that may have any number of labels."""


def bundle_of(card: BundleCard, model: "Classifier", tokenizer: "Tokenizer") -> Bundle:
    """The model as its card describes it: a ManyBundle if a text may have many labels."""
    return (Bundle if card.thresholds is None else ManyBundle)(
        model,
        tokenizer,
        card.labels,
        card.positive,
        card.max_length,
        card.threshold,
        card.temperature,
        card.columns,
        card.white_space,
        card.thresholds,
        card.long_texts,
        card.costs,
        card.abstain_below,
    )


@dataclass(frozen=True)
class OnnxBundle(Predictor):
    """A classifier in ONNX; it loads neither torch nor any other library of that size."""

    model: "OnnxClassifier"
    labels: list[str]
    positive: str | None
    threshold: float | None
    temperature: float
    columns: dict[str, str] = field(default_factory=dict)
    white_space: str = "keep"
    thresholds: list[float] | None = None
    costs: Costs | None = None
    abstain_below: float | None = None

    @classmethod
    def load(cls, path: Path | str) -> "OnnxBundle":
        """Read a directory that ``export --format onnx`` wrote. Raises WeightsError, or RunError without onnxruntime."""
        return _settled(path, lambda: cls._load(path))

    @classmethod
    def _load(cls, path: Path | str) -> "OnnxBundle":
        from finetune.export.extras import require
        from finetune.export.standalone import OnnxClassifier

        require("onnx", "onnxruntime")
        if (Path(path) / MANIFEST).exists() and (why := damage(Path(path))):
            raise WeightsError(f"{path}: this bundle is damaged or was edited", got=why, do="Export it again.")
        card = read_card(Path(path) / "bundle.json")
        try:
            model = OnnxClassifier(path)
        except Exception as error:  # onnxruntime raises a different class for each kind of broken file
            raise WeightsError(f"{path}: cannot be read", got=str(error)[:200], do="Export the run again.") from error
        rule = model.threshold, model.thresholds, model.costs, model.abstain_below, model.long_texts
        known = card.threshold, card.thresholds, card.costs, card.abstain_below, card.long_texts
        if (model.labels, model.temperature) != (card.labels, card.temperature) or rule != known:
            raise WeightsError(f"{path}: bundle.json does not fit {ONNX}", do="Export the run again.")
        return (cls if card.thresholds is None else ManyOnnxBundle)(
            model,
            card.labels,
            card.positive,
            card.threshold,
            card.temperature,
            card.columns,
            card.white_space,
            card.thresholds,
            card.costs,
            card.abstain_below,
        )

    def logits(self, texts: list[str]) -> np.ndarray:
        """Raw logits (n, K), in fp32."""
        try:
            return self.model.logits(texts)
        except ValueError as error:
            raise DataError(str(error), do="Leave rows without text out.") from error


@dataclass(frozen=True)
class ManyOnnxBundle(ManyLabels, OnnxBundle):
    """A classifier in ONNX of texts that may have any number of labels."""


def open_bundle(path: Path | str, mapped: bool = False) -> Predictor:
    """The classifier in a bundle or a run: in torch, in ONNX, or another winner. Raises WeightsError.

    mapped: memory-map the weights instead of copying them, for a process that ends before the file changes.
    """
    return _settled(path, lambda: _open(path, mapped))


def _open(path: Path | str, mapped: bool) -> Predictor:
    if (Path(path) / ONNX).exists():
        return OnnxBundle._load(path)
    directory = bundle_directory(path)
    card = read_card(directory / "bundle.json")
    return Bundle._load(path, mapped) if card.winner == MODEL else load_winner(directory, card, Bundle._load)


def _settled(path: Path | str, load: Callable[[], _Loaded]) -> _Loaded:
    """The result of `load` for the directory.

    Waits for an export that is replacing the directory, so that all parts come from one bundle.
    """
    until = time.monotonic() + REPLACING_SECONDS
    while True:
        before = _identity(path)
        try:
            found = load()
        except (WeightsError, OSError) as error:
            settled = before == _identity(path) and (before or not _being_replaced(path))
            if settled or time.monotonic() > until:
                if isinstance(error, OSError):
                    raise WeightsError(f"{path}: cannot be read", got=error.strerror or str(error)) from error
                raise
        else:
            if before == _identity(path):
                return found
        time.sleep(0.05)


def _directory(path: Path | str) -> Path:
    if not (Path(path) / "recipe.json").exists():
        return Path(path)
    bundle = Path(path) / "export" / "bundle"  # a run has it if not the model won
    return bundle if bundle.exists() else Path(path) / "export" / "hf"


def _identity(path: Path | str) -> tuple[int, int] | None:
    """The directory's device and inode, which change when it is replaced; None if it does not exist."""
    try:
        found = _directory(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _being_replaced(path: Path | str) -> bool:
    """Whether there is a draft of the directory, or its earlier version, beside it."""
    directory = _directory(path)
    return any(directory.parent.glob(f".{escape(directory.name)}.*"))


def bundle_directory(path: Path | str) -> Path:
    """The directory with a bundle's files: this one, or a run's export. Raises WeightsError."""
    directory = _directory(path)
    if directory != Path(path):
        Run.at(Path(path))  # refuses links out of the run
    if not (directory / "bundle.json").exists():
        writes = (directory / "model.safetensors").exists()
        if writes and _classifies(directory / "model.safetensors"):
            raise WeightsError(
                f"{path}: a classifier without its bundle.json, as when another program saved it again",
                known="labels, length, threshold and temperature are in bundle.json",
                do="Copy bundle.json into it from the export that it was loaded from.",
            )
        raise WeightsError(
            f"{path}: not a bundle" + (", but weights of a model that generates text" if writes else ""),
            known="a classifier's run, or its export/hf with bundle.json",
            do=f"Try: finetune generate {path} TEXT" if writes else "Finish the run: finetune run RECIPE --name NAME",
        )
    return directory


def _classifies(path: Path) -> bool:
    """Whether a file of weights has a classifier's head."""
    from finetune.checkpoints.gpt2_keys import CLASSIFIER_HEAD
    from finetune.checkpoints.store import read_header

    return CLASSIFIER_HEAD in read_header(path)


def read_card(path: Path) -> BundleCard:
    """A bundle's card. Raises WeightsError if the file is not one."""
    try:
        card = BundleCard.from_json(read_json(path), path)
    except RunError as error:
        raise WeightsError(
            f"{path}: not in the format of an export", got=error.got, do="Export the run again."
        ) from error
    fits = all(
        len(part or card.labels) == len(card.labels) for part in (card.thresholds, card.costs, *(card.costs or ()))
    )
    if card.positive not in (None, *card.labels) or not fits:
        raise WeightsError(
            f"{path}: not in the format of an export",
            got=f"positive {card.positive!r}"
            if fits
            else f"{len(card.thresholds or card.costs or [])} {'thresholds' if card.thresholds else 'costs'}",
            known=listed(card.labels),
            do="Export the run again.",
        )
    return card


def answer_columns(labels: list[str], abstains: bool = False) -> list[str]:
    """The columns that a prediction fills, in predictions.csv and in a table of ``predict``."""
    return ["predicted", *(["decision"] if abstains else []), "probability", *(f"p_{label}" for label in labels)]


def added_columns(bundle: Predictor, names: list[str], source: Path | str, overwrite: bool = False) -> list[str]:
    """The columns that a prediction adds to a table. Raises DataError if the table already has one, unless it is replaced."""
    added = answer_columns(bundle.labels, bundle.abstain_below is not None)
    clash = [name for name in added if name in names]
    if clash and not overwrite:
        raise DataError(
            f"{source}: has columns that the output adds",
            got=", ".join(clash),
            do="Rename them, or replace them: --overwrite (in Python, overwrite=True).",
        )
    return added


def predict_table(
    bundle: Predictor,
    source: Path,
    target: Path,
    text: str | None,
    encoding: str | None = None,
    header: bool = True,
    overwrite: bool = False,
    work: Sequence[str] = (),
) -> dict:
    """Predict a table row by row into another, columns and order kept, in bounded memory.

    A first pass over the whole table counts the rows and finds unreadable ones before hours of work.
    Adds predicted, probability, a p_ column for each label, and decision if the bundle may abstain; overwrite: replace
    columns of these names. Rows without text get empty cells. header: false if the first row is data; the columns are
    then called column_1 and so on. work: the arguments with which other processes are called to share the rows, as in
    ``lead``. Returns counts, the columns that were read as the text, and notes on how the table was read.
    """
    if Path(target).resolve() == Path(source).resolve():
        raise DataError(f"{target}: the output would overwrite the input table", do="Give another --out.")
    detected = detect_format(source, encoding, HEADER_NAMES if header else frozenset())
    layout, notes = detected.layout, list(detected.notes)
    if not header:
        layout, notes = without_header(source, layout), []
    elif layout.header and (only := _only_column(source, layout, bundle)):
        if layout.kind in ("delimited", "xlsx") and " " in only.strip():
            layout = without_header(source, layout)
            notes.append(f"no header: the first row is data, as its only cell is a text: {shorten(only)!r}")
        elif layout.kind in ("delimited", "xlsx"):
            notes.append(f"{shorten(only)!r} is read as the header; if it is a text to predict, add --no-header")
    layout = with_fields(source, layout, [text or bundle.columns.get("text")])
    total = sum(1 for _ in iterate_values(source, layout))
    table = iterate_values(source, layout)
    sample = list(itertools.islice(table, SAMPLE))
    if not sample:
        raise DataError(
            f"{source}: a header and no rows", do="Add rows, or give --no-header if the first line is data."
        )
    names = sample[0][0]
    held = names[: len(names) - len(layout.fields)]
    added = added_columns(bundle, held, source, overwrite)
    cells = [list(map(as_cell, values)) for _, values in sample]
    text_at = find_unlabelled_text(names, cells, bundle.column("text", text, names), source)
    kept = [at for at, name in enumerate(held) if name not in added]
    counts = {"rows": 0, "without_text": 0}
    rows = (values for _, values in itertools.chain(sample, table))

    def texts_of(chunk: list[list[Any]]) -> list[str]:
        cells = ([as_cell(values[at]) for at in text_at] for values in chunk)
        return [bundle.folded(join_cells(own, list(range(len(text_at))))) for own in cells]

    def filled(item: tuple[Any, list[str]]) -> list[str]:
        return [own for own in item[1] if own.strip()]

    read = ((chunk, texts_of(chunk)) for chunk in chunks(rows, CHUNK))
    with (
        open_writer(
            target, [held[at] for at in kept], added, source, layout, 1 if bundle.abstain_below is None else 2
        ) as writer,
        progress("predicting", total, unit="rows") as advance,
    ):
        for (chunk, texts), logits in lead(work, read, filled, bundle.any_logits):
            probabilities = bundle.probabilities(logits)
            given = iter(zip(*bundle.name(probabilities), probabilities, strict=True))
            answers: list[list[Any]] = []
            for own in texts:
                if not own.strip():
                    answers.append([None] * len(added))
                    continue
                label, sure, p = next(given)
                answers.append([label, *bundle.decisions([label], [sure]), float(sure), *map(float, p)])
            writer.write([[values[at] for at in kept] for values in chunk], answers)
            counts["rows"] += len(chunk)
            counts["without_text"] += len(chunk) - len(logits)
            advance(len(chunk))
    return counts | {"text_column": ",".join(names[index] for index in text_at), "notes": notes}


def _only_column(source: Path, layout: TableFormat, bundle: Predictor) -> str:
    """The name of a table's only column, if neither its name nor the column used in training shows that it is a header."""
    names = next(iterate_table(source, layout), ([],))[0]
    usual = {*TEXT_NAMES, bundle.columns.get("text", "").casefold()}
    return names[0] if len(names) == 1 and names[0].strip().casefold() not in usual else ""
