"""``TextClassifier``: the same training behind scikit-learn's interface, for lists, arrays, pandas and datasets."""

import multiprocessing
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.utils import check_random_state

from finetune.checkpoints.sources import locate_weights, resolve_auto
from finetune.config import validate
from finetune.console import silence
from finetune.errors import FinetuneError, InputError, Interrupted, RecipeError, WeightsError, listed
from finetune.export import hf
from finetune.export.exportable import random_ids
from finetune.files import sha256_json
from finetune.recipe import Recipe, check_method
from finetune.records import WeightsOrigin
from finetune.tables.in_memory import label_names, read_texts, tidy_labels
from finetune.tables.label_matrices import LISTS, MATRIX, read_label_sets
from finetune.tables.label_sets import join_decided
from finetune.tables.readers import LabelledTexts
from finetune.tables.training_rows import TrainingRows, read_training_rows
from finetune.tasks.base import task_of
from finetune.tasks.classify.bundle import Bundle, BundleCard, bundle_directory, read_card
from finetune.tasks.classify.export import exportable
from finetune.tasks.classify.fine_tune import Rows, fine_tune
from finetune.tasks.setup import start_weights, write_new_weights

SEED_LIMIT = 1 << 31
DTYPES = re.compile(r"[<>|]([biufU]\d+|O)")  # of the classes
OWN = {"class_weights": "class_weight", "seed": "random_state"} | {
    name: name for name in ("method", "epochs", "lr", "batch_size")
}  # settings of a recipe's `train` that are parameters here


class UnfittedError(FinetuneError, NotFittedError):
    """``predict`` was called on an estimator that is not fitted."""


class TextClassifier(ClassifierMixin, BaseEstimator):
    """A text classifier that fine-tunes GPT-2.

    X: texts, as a list, an array, a column or frame of pandas, Arrow or datasets; several columns are joined with
    newlines. y: labels, text, whole numbers or booleans; ``predict`` gives them back in their type. As in a table,
    white space around a label is none of it, and an empty label is missing; ``fit`` warns of such labels, since
    scikit-learn's own scorers compare y as it is given with the stripped labels of ``predict``. Where
    rows may have many labels, y is a list of lists of labels or an indicator matrix (n, K), such as a frame of 0 and 1
    with a column for each label.

    Parameters
    ----------
    weights : str or Path
        pretrained weights: a name, a directory, a run or a hub id; "auto": GPT-2 if available, else mini
    method : str
        which weights are trained: auto, full, last-blocks, head, features or lora
    epochs, lr : int and float, or None
        passes over the training rows and peak learning rate; None: follow weights and method
    batch_size : int
        rows per optimizer step
    max_length : int or None
        tokens that the model reads at a time; None: its context
    long_texts : str
        what is read of a longer text: cut, head-tail or windows, as the setting ``classify.long_texts``
    validation_fraction : float
        share of the rows that choose the epoch and the temperature of the probabilities; at 0, and where the rows are
        too few for a share, all are trained on and choose the epoch
    class_weight : None, dict or str
        what classes weigh in the loss: None, a dict of class and weight, or "balanced" for equal classes
    threshold : float or str
        of two classes, the probability from which the second is predicted; "max-f1": that with its best F1 on the
        share of rows for validation. Of many labels a row, that of each label
    settings : dict or None
        any other setting of a recipe's ``train``, as ``{"lora_rank": 4}``
    random_state : int or generator
        seed of the split, the head and the order of the rows, or a generator of numpy that draws it; the same number
        gives the same fit
    verbose : bool
        whether ``fit`` prints its choices and progress

    Notes
    -----
    After ``fit``: classes_, settings_ (of the training, as resolved), history_ (a dict for each validation), best_score_
    (``settings_.metric`` on the validation rows; None without any), threshold_ (None with more than two classes),
    thresholds_ (of many labels a row), label_form_ (of y: None, "lists" or "matrix"),
    origin_ (hashes and the weights' names for a bundle), bundle_ (what predicts) and, of a frame, feature_names_in_.
    """

    classes_: np.ndarray
    origin_: dict[str, Any]
    threshold_: float | None
    thresholds_: list[float] | None
    label_form_: str | None

    def __init__(
        self,
        weights: str | Path = "auto",
        method: str = "auto",
        epochs: int | None = None,
        lr: float | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        long_texts: str = "cut",
        validation_fraction: float = 0.1,
        class_weight: str | Mapping[Any, float] | None = None,
        threshold: float | str = 0.5,
        settings: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | np.random.Generator | None = 123,
        verbose: bool = False,
    ):
        self.weights = weights
        self.method = method
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.max_length = max_length
        self.long_texts = long_texts
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.threshold = threshold
        self.settings = settings
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fine-tune on texts and their labels. Raises InputError, a ValueError, for unusable input.

        sample_weight: (n,) what each row weighs in the loss, the validation and ``balanced``; rows of weight 0 are
        left out. Only their ratios count.
        """
        learnt = read_training_rows(X, y, sample_weight)
        names, many = label_names(learnt.classes), learnt.label_form is not None
        labels = join_decided(names, learnt.targets) if many else [names[at] for at in learnt.targets]
        source = LabelledTexts(list(range(len(learnt.texts))), learnt.texts, labels, many=many)
        rows = Rows(source, names, learnt.weights, self._class_weights(learnt))
        threshold = self._threshold(len(names), many)
        recipe = self._recipe(many)
        words = nullcontext() if self.verbose else silence()
        with tempfile.TemporaryDirectory() as folder:
            write_new_weights(recipe, Path(folder) / "base")
            start = locate_weights(recipe.weights, base=Path(folder) / "base")  # a download is not silent
            try:
                with words, _kept_state():
                    found = fine_tune(recipe, rows, start, Path(folder), float(self.validation_fraction), threshold)
            except Interrupted as stop:
                raise KeyboardInterrupt("fit was interrupted; nothing is kept") from stop
            weights = WeightsOrigin(start.name, start.source, start.licence, start.content())
        self.bundle_, self.settings_, self.classes_ = found.bundle, found.settings, learnt.classes
        self.label_form_, self.thresholds_ = learnt.label_form, found.bundle.thresholds
        self.threshold_, self.best_score_ = found.bundle.threshold, found.best_score
        self.history_ = [
            {"epoch": each.epoch, "step": each.step, "loss": each.loss, "rows": each.rows}
            | each.scores
            | {"best": each.best}
            for each in found.history
        ]
        self.origin_ = {
            "weights": start_weights(weights),
            "recipe_sha256": sha256_json(recipe.model_dump()),
            "data_sha256": sha256_json(
                [source.texts, source.labels, *([] if learnt.weights is None else [learnt.weights.tolist()])]
            ),
        }
        self._keep_columns(learnt.columns)
        return self

    def predict(self, X: Any) -> np.ndarray | list[list[Any]]:
        """The label (n,) of each text; where a row may have many, a matrix or lists of them, as y in ``fit``."""
        decided = self._fitted().decide(self.predict_proba(X))
        if self.label_form_ == MATRIX:
            return decided.astype(int)
        if self.label_form_ == LISTS:
            return [self.classes_[has].tolist() for has in decided]
        found: np.ndarray = self.classes_[decided]
        return found

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, K), in the order of ``classes_``: calibrated, or of each label where a row may have many."""
        return self._fitted().probabilities(self._logits(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithms (n, K) of the probabilities."""
        return self._fitted().log_probabilities(self._logits(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """Of two classes, the log-odds (n,) of the second beyond those of the threshold; of more, the logits (n, K).

        ``predict`` gives the second class where it is positive, and the class with the highest logit of several. Where
        a row may have many labels, the log-odds (n, K) of each beyond its threshold.
        """
        return self._fitted().margins(self._logits(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy, with the labels read as in ``fit``; where a row may have many, of rows with exactly theirs."""
        if self._fitted().thresholds is None:
            return float(accuracy_score(tidy_labels(np.asarray(y)), self.predict(X), sample_weight=sample_weight))
        sets = read_label_sets(y, self.classes_)
        if sets is None:
            raise InputError("y has one label per row, unlike in fit", got=type(y).__name__)
        decided = self._fitted().decide(self.predict_proba(X))
        return float(accuracy_score(sets.has, decided, sample_weight=sample_weight))

    def _logits(self, X: Any) -> np.ndarray:
        """Logits (n, K), in the order of ``classes_``."""
        bundle = self._fitted()
        texts, columns = read_texts(X)
        known = getattr(self, "feature_names_in_", np.array(columns or [])).tolist()
        if columns and columns != known:
            raise InputError("columns differ from those in fit", got=", ".join(columns), known=", ".join(known))
        return bundle.logits(texts)

    def save(self, path: str | Path) -> Path:
        """Write a bundle as ``finetune export`` does, for ``load``, ``finetune predict`` and transformers. No pickle.

        Raises InputError where something else stands there, WeightsError where transformers would read it otherwise.
        """
        bundle, path = self._fitted(), Path(path)
        if path.exists() and not (path / "bundle.json").exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path}: exists and is not a bundle", do="Give another path.")
        own = {
            "parameters": _written(self.get_params(deep=False)),
            "classes": self.classes_.tolist(),
            "dtype": self.classes_.dtype.str,
            "columns": list(getattr(self, "feature_names_in_", [])),
            "label_form": self.label_form_,
        }
        columns = {"text": ",".join(own["columns"])} if own["columns"] else {}
        card = BundleCard(
            schema_version=1,
            task="classify",
            labels=bundle.labels,
            positive=bundle.positive,
            columns=columns,
            max_length=bundle.max_length,
            long_texts=bundle.long_texts,
            threshold=bundle.threshold,
            thresholds=bundle.thresholds,
            temperature=bundle.temperature,
            tokenizer_sha256=bundle.tokenizer.fingerprint(),
            estimator=own,
            **self.origin_,
        )
        examples = [bundle.tokenizer.decode(row) for row in random_ids(bundle.model.body.config).tolist()]
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
            estimator = cls(**_read(own["parameters"]))
            estimator.classes_ = np.array(own["classes"], dtype=own["dtype"])
            estimator.origin_ = {key: getattr(card, key) for key in ("weights", "recipe_sha256", "data_sha256")}
            estimator._keep_columns(list(map(str, own["columns"])))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{file}: not written by TextClassifier.save", got=str(error)) from error
        estimator.bundle_, estimator.threshold_, estimator.thresholds_ = bundle, bundle.threshold, bundle.thresholds
        many = own.get("label_form") or LISTS
        estimator.label_form_ = None if bundle.thresholds is None else many
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

    def _class_weights(self, learnt: TrainingRows) -> np.ndarray | None:
        """The weights (K,) that ``class_weight`` gives as a dict; a class that it leaves out has weight 1."""
        if not isinstance(self.class_weight, Mapping):
            return None
        if learnt.label_form:
            raise InputError("class_weight as a dict needs one label per row", do="Use 'balanced', or sample_weight.")
        known = {label.strip() if isinstance(label, str) else label: w for label, w in self.class_weight.items()}
        labels = learnt.classes.tolist()
        strange = [str(label) for label in known if label not in labels]
        bad = [f"{label}: {w}" for label, w in known.items() if not _is_number(w) or not 0 < w < np.inf]
        if strange or bad:
            raise InputError(
                "class_weight names classes that are not in y" if strange else "class_weight must be a positive number",
                got=listed(strange or bad),
                known=listed(list(map(str, labels))) if strange else "",
            )
        return np.array([known.get(label, 1.0) for label in labels], dtype=np.float64)

    def _threshold(self, classes: int, many: bool) -> float | None:
        """The threshold of two classes, or of each of many labels; None for the best. Raises InputError."""
        given = self.threshold
        if given != "max-f1" and not (_is_number(given) and 0 < float(given) < 1):
            raise InputError("threshold", got=repr(given), known="a probability between 0 and 1, or 'max-f1'")
        if given != 0.5 and classes != 2 and not many:
            raise InputError(f"threshold={given} needs two classes", got=f"{classes} classes", do="Leave it out.")
        if given == "max-f1" and self.validation_fraction == 0:
            raise InputError(
                "threshold='max-f1' is chosen on validation rows",
                got="validation_fraction=0",
                do="Hold some out, or give a number.",
            )
        return None if given == "max-f1" else float(given)

    def _recipe(self, many: bool) -> Recipe:
        """The parameters as a recipe of their own words. many: whether a row may have many labels. Raises InputError."""
        twice = [name for name in self.settings or {} if name in OWN]
        if twice:
            raise InputError(
                f"settings[{twice[0]!r}] is set by a parameter",
                got=f"settings={dict(self.settings or {})!r}, {OWN[twice[0]]}={getattr(self, OWN[twice[0]])!r}",
                do=f"Give {OWN[twice[0]]} alone: TextClassifier({OWN[twice[0]]}=...).",
            )
        seed = self.random_state
        if isinstance(seed, np.random.Generator):
            seed = int(seed.integers(SEED_LIMIT))
        elif not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(SEED_LIMIT)
        given_by_class, fraction = isinstance(self.class_weight, Mapping), _plain(self.validation_fraction)
        chosen = {
            "method": self.method,
            "epochs": self.epochs,
            "lr": self.lr,
            "batch_size": self.batch_size,
            "class_weights": "none" if self.class_weight is None or given_by_class else self.class_weight,
            "seed": seed,
            "threads": _threads(),
        } | dict(self.settings or {})
        values = {
            "task": "classify",
            "classify": {"labels": "many" if many else None, "long_texts": self.long_texts},
            "weights": resolve_auto(str(self.weights)),
            "max_length": _plain(self.max_length),
            "split": {"seed": _plain(seed)} | ({"val_fraction": fraction} if fraction != 0 else {}),
            "train": {name: _plain(value) for name, value in chosen.items()},
        }
        try:
            recipe = validate(Recipe, values, "TextClassifier", "help(finetune.TextClassifier)")
            check_method(recipe.train)
            task_of(recipe).check_settings(recipe)
            if _process.forked and recipe.train.threads > 1:
                raise RecipeError(
                    "a forked process can train on only one thread",
                    got=f"threads={recipe.train.threads}",
                    do="Leave threads out, or use joblib's loky backend.",
                )
        except RecipeError as error:
            raise InputError(error.what, got=error.got, known=error.known, do=error.do) from error
        return recipe


class _Process:
    """What all estimators of a process share: torch's random numbers and its threads.

    GNU's OpenMP does not survive a fork: a child that computes with more than one thread waits for ever.
    """

    training = threading.Lock()
    forked = False

    def fork(self) -> None:
        """In a child: compute with one thread, and do not wait for a training of the parent's."""
        self.training, self.forked = threading.Lock(), True
        torch.set_num_threads(1)


_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.fork)


def _threads() -> int:
    """The threads of a training: 0, which is as many as the process may use; 1 in a worker that was not told."""
    worker = multiprocessing.parent_process() is not None
    return int(_process.forked or (worker and not os.environ.get("OMP_NUM_THREADS")))


@contextmanager
def _kept_state() -> Iterator[None]:
    """Train alone, and leave torch's random numbers and number of threads as they were: they are the caller's."""
    with _process.training, torch.random.fork_rng():
        threads = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _plain(value: object) -> Any:
    """A parameter as JSON writes it: numpy's numbers as Python's, a path as text, a generator as none."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, np.random.RandomState | np.random.Generator) else value


def _written(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters as JSON writes them, weights of classes as pairs: the names of JSON are text, classes may not be."""
    written = {name: _plain(value) for name, value in parameters.items()}
    if isinstance(weights := written["class_weight"], Mapping):
        written["class_weight"] = [[_plain(label), float(weight)] for label, weight in weights.items()]
    return written


def _read(written: dict[str, Any]) -> dict[str, Any]:
    """The parameters that ``_written`` made JSON of."""
    pairs = written.get("class_weight")
    return written | {"class_weight": dict(pairs)} if isinstance(pairs, list) else written
