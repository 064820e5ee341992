"""``TextClassifier``: the same training behind scikit-learn's interface, for lists, arrays, pandas and datasets."""

import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state

from finetune.adapters.lora import merge
from finetune.checkpoints.sources import WeightsSource, locate_weights, resolve_auto
from finetune.config import validate
from finetune.console import say, silence
from finetune.errors import FinetuneError, InputError, Interrupted, RecipeError, WeightsError
from finetune.evaluation.calibration import fit_temperature, softmax
from finetune.export import hf
from finetune.export.exportable import random_ids
from finetune.files import sha256_json
from finetune.recipe import Recipe, Train, check_method
from finetune.records import WeightsOrigin
from finetune.tables.in_memory import label_names, read_labels, read_texts
from finetune.tables.readers import LabelledTexts
from finetune.tables.splits import grouped_split
from finetune.tasks.base import task_named
from finetune.tasks.classify.bundle import Bundle, BundleCard, bundle_directory, read_card
from finetune.tasks.classify.data import Records
from finetune.tasks.classify.export import exportable
from finetune.tasks.classify.job import build_job, examples
from finetune.tasks.setup import assemble, fit, start_weights, write_new_weights
from finetune.training.precision import device_type
from finetune.training.predict import predict_logits

SEED_LIMIT = 1 << 31
DTYPES = re.compile(r"[<>|]([biufU]\d+|O)")  # of the classes


class UnfittedError(FinetuneError, NotFittedError):
    """``predict`` was called on an estimator that is not fitted."""


class TextClassifier(ClassifierMixin, BaseEstimator):
    """A text classifier that fine-tunes GPT-2.

    X: texts, as a list, an array, a column or frame of pandas or of datasets; several columns are joined with newlines.
    y: labels, text, whole numbers or booleans; ``predict`` gives them back in their type.

    Parameters
    ----------
    weights : pretrained weights: a name, a directory, a run or a hub id; "auto": GPT-2 if available, else mini
    method : which weights are trained: auto, full, last-blocks, head or lora
    epochs, lr : passes over the training rows and peak learning rate; None: follow weights and method
    batch_size : rows per optimizer step
    max_length : tokens to which a text is truncated; None: the model's context
    validation_fraction : share of the rows that choose the epoch and the temperature of the probabilities; where the
        rows are too few for one, those that are trained on choose the epoch
    class_weight : None, or "balanced" for classes that weigh the same in the loss
    settings : any other setting of a recipe's ``train``, as ``{"lora_rank": 4}``
    random_state : seed of the split, the head and the order of the rows; the same number gives the same fit
    verbose : whether ``fit`` prints its choices and progress

    After ``fit``: classes_, settings_ (of the training, as resolved), origin_ (hashes and the weights' names for a
    bundle), bundle_ (what predicts) and, of a frame, feature_names_in_.
    """

    classes_: np.ndarray
    origin_: dict[str, Any]

    def __init__(
        self,
        weights: str | Path = "auto",
        method: str = "auto",
        epochs: int | None = None,
        lr: float | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        validation_fraction: float = 0.1,
        class_weight: str | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = 123,
        verbose: bool = False,
    ):
        self.weights = weights
        self.method = method
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.max_length = max_length
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.settings = settings
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Fine-tune on texts and their labels. Raises InputError, a ValueError, for unusable input."""
        texts, columns = read_texts(X)
        classes, targets = read_labels(y)
        if len(texts) != len(targets):
            raise InputError("X and y have different lengths", got=f"{len(texts)} texts, {len(targets)} labels")
        names = label_names(classes)
        source = LabelledTexts(list(range(len(texts))), texts, [names[target] for target in targets])
        recipe = self._recipe()
        words = nullcontext() if self.verbose else silence()
        with tempfile.TemporaryDirectory() as folder:
            write_new_weights(recipe, Path(folder) / "base")
            start = locate_weights(recipe.weights, base=Path(folder) / "base")  # a download is not silent
            try:
                with words, _kept_state():
                    bundle, settings = fine_tune(recipe, source, names, start, Path(folder))
            except Interrupted as stop:
                raise KeyboardInterrupt("fit was interrupted; nothing is kept") from stop
            weights = WeightsOrigin(start.name, start.source, start.licence, start.content())
        self.bundle_, self.settings_, self.classes_ = bundle, settings, classes
        self.origin_ = {
            "weights": start_weights(weights),
            "recipe_sha256": sha256_json(recipe.model_dump()),
            "data_sha256": sha256_json([texts, source.labels]),
        }
        self._keep_columns(columns)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The label (n,) of each text."""
        probabilities = self.predict_proba(X)
        found: np.ndarray = self.classes_[self.bundle_.decide(probabilities)]
        return found

    def predict_proba(self, X: Any) -> np.ndarray:
        """Calibrated probabilities (n, K), in the order of ``classes_``."""
        bundle = self._fitted()
        texts, columns = read_texts(X)
        known = getattr(self, "feature_names_in_", np.array(columns or [])).tolist()
        if columns and columns != known:
            raise InputError("columns differ from those in fit", got=", ".join(columns), known=", ".join(known))
        return softmax(bundle.logits(texts), bundle.temperature)

    def save(self, path: str | Path) -> Path:
        """Write a bundle as ``finetune export`` does, for ``load``, ``finetune predict`` and transformers. No pickle.

        Raises InputError where something else stands there, WeightsError where transformers would read it otherwise.
        """
        bundle, path = self._fitted(), Path(path)
        if path.exists() and not (path / "bundle.json").exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path}: exists and is not a bundle", do="Give another path.")
        own = {
            "parameters": {name: _plain(value) for name, value in self.get_params(deep=False).items()},
            "classes": self.classes_.tolist(),
            "dtype": self.classes_.dtype.str,
            "columns": list(getattr(self, "feature_names_in_", [])),
        }
        columns = {"text": ",".join(own["columns"])} if own["columns"] else {}
        card = BundleCard(
            schema_version=1,
            task="classify",
            labels=bundle.labels,
            positive=bundle.positive,
            columns=columns,
            max_length=bundle.max_length,
            threshold=bundle.threshold,
            temperature=bundle.temperature,
            tokenizer_sha256=bundle.tokenizer.fingerprint(),
            estimator=own,
            **self.origin_,
        )
        examples = [bundle.tokenizer.decode(row) for row in random_ids(bundle.model.gpt.config).tolist()]
        thing = exportable(
            path.name, bundle.model, bundle.tokenizer, card, examples, ["trained by finetune.TextClassifier"]
        )
        with silence():
            hf.write(thing, path.absolute())
        return path

    @classmethod
    def load(cls, path: str | Path) -> "TextClassifier":
        """A fitted estimator from what ``save`` wrote, or from a run or its bundle (whose labels are text)."""
        bundle = Bundle.load(path)
        file = bundle_directory(path) / "bundle.json"
        card = read_card(file)
        own = card.estimator or {"parameters": {}, "classes": bundle.labels, "dtype": "|O", "columns": []}
        try:
            known = DTYPES.fullmatch(own["dtype"]) and len(own["classes"]) == len(bundle.labels)
            if not known or (own["dtype"] == "|O" and not all(isinstance(label, str) for label in own["classes"])):
                raise ValueError(f"classes {own['classes']!r} of type {own['dtype']!r}")
            estimator = cls(**own["parameters"])
            estimator.classes_ = np.array(own["classes"], dtype=own["dtype"])
            estimator.origin_ = {key: getattr(card, key) for key in ("weights", "recipe_sha256", "data_sha256")}
            estimator._keep_columns(list(map(str, own["columns"])))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{file}: not what TextClassifier.save writes", got=str(error)) from error
        estimator.bundle_ = bundle
        return estimator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def _fitted(self) -> Bundle:
        if not hasattr(self, "bundle_"):
            raise UnfittedError("this TextClassifier is not fitted yet", do="Call fit first, or TextClassifier.load.")
        return self.bundle_

    def _keep_columns(self, columns: list[str] | None) -> None:
        """Remember a frame's columns; later frames must have the same."""
        for name in ("feature_names_in_", "n_features_in_"):
            self.__dict__.pop(name, None)
        if columns:
            self.feature_names_in_, self.n_features_in_ = np.array(columns, dtype=object), len(columns)

    def _recipe(self) -> Recipe:
        """The parameters as a recipe of their own words. Raises InputError."""
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(SEED_LIMIT)
        chosen = {
            "method": self.method,
            "epochs": self.epochs,
            "lr": self.lr,
            "batch_size": self.batch_size,
            "class_weights": self.class_weight or "none",
            "seed": seed,
        } | dict(self.settings or {})
        values = {
            "task": "classify",
            "weights": resolve_auto(str(self.weights)),
            "max_length": _plain(self.max_length),
            "split": {"val_fraction": _plain(self.validation_fraction), "seed": _plain(seed)},
            "train": {name: _plain(value) for name, value in chosen.items()},
        }
        try:
            recipe = validate(Recipe, values, "TextClassifier", "help(finetune.TextClassifier)")
            check_method(recipe.train)
        except RecipeError as error:
            raise InputError(error.what, got=error.got, known=error.known, do=error.do) from error
        return recipe


def fine_tune(
    recipe: Recipe, source: LabelledTexts, labels: list[str], start: WeightsSource, folder: Path
) -> tuple[Bundle, Train]:
    """Train on the rows as a run would, with checkpoints in `folder`: what predicts, and the settings as resolved."""
    loaded, task = start.load(recipe.train.dropout), task_named("classify")
    task.check_body(loaded.body, start.name)
    gpt, tokenizer = loaded.gpt, loaded.tokenizer
    parts = grouped_split(source.texts, source.labels, recipe.split.val_fraction, 0.0, recipe.split.seed)
    max_length = min(recipe.max_length or gpt.config.context, gpt.config.context)
    prepared = task.prepared({name: len(rows) for name, rows in parts.items()}, len(source.texts), labels, max_length)
    setup = assemble(task, recipe, gpt, tokenizer, loaded.report.parameters, prepared)
    model, settings = setup.model, setup.settings
    learnt, held_out = (
        examples(Records(source, parts[name]), labels, tokenizer, max_length) for name in ("train", "val")
    )
    validation = held_out if held_out.rows else learnt
    say(f"weights {start.name}; {len(learnt.rows):,} rows to train on, {len(held_out.rows):,} to validate")
    for line in [*setup.why, setup.trainable.describe()]:
        say(f"  {line}")
    job = build_job(model, setup.trainable, settings, learnt, validation, torch.device(device_type()))
    fit(job, settings, folder, {}, checkpoint_seconds=math.inf)
    model = merge(model.eval()).requires_grad_(False)
    temperature = fit_temperature(predict_logits(model, held_out.ids), held_out.targets)
    two = len(labels) == 2
    return Bundle(
        model, tokenizer, labels, labels[1] if two else None, max_length, 0.5 if two else None, temperature
    ), settings


@contextmanager
def _kept_state() -> Iterator[None]:
    """Leave torch's random numbers and its number of threads as they were: they are the caller's."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _plain(value: object) -> Any:
    """A parameter as JSON writes it: numpy's numbers as Python's, a path as text, a generator as none."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, np.random.RandomState) else value
