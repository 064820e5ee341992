"""A classifier behind the server: predictions in batches, their explanations, and the nearest training rows."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from finetune.errors import FinetuneError
from finetune.run import Run
from finetune.serve.problems import Problem
from finetune.serve.worker import Work, Worker
from finetune.tasks.base import read_records
from finetune.tasks.classify.bundle import Bundle, bundle_directory, open_bundle, read_card
from finetune.tasks.classify.data import LabelledRow
from finetune.tasks.classify.predictor import ManyLabels, Predictor

BATCH_TEXTS = 256  # maximum texts in a batch of requests
TABLE_TEXTS = 64  # texts of a table per batch; other requests are answered between batches
INDEXED = 8  # training rows read per batch, likewise
NEIGHBOURS = 3


@dataclass(frozen=True)
class Prediction:
    """The bundle's prediction for a text."""

    label: str
    probability: float
    decision: str  # the label, or abstain
    probabilities: list[float]  # in the order of the labels


@dataclass(frozen=True)
class Explanation:
    """Evidence on a prediction. tokens: each with the decrease in log-odds when it is hidden."""

    label: str
    against: str  # the second most probable label
    tokens: list[tuple[str, float]]
    neighbours: list[dict[str, Any]]
    notes: list[str]


class Classifier:
    """The bundle, and the work of the model's thread on it."""

    def __init__(self, directory: Path, worker: Worker):
        self.bundle = open_bundle(directory)
        self.card = read_card(bundle_directory(directory) / "bundle.json")
        self.worker = worker
        self.predict_work = Work(self._predict, weight=len, most=BATCH_TEXTS)
        self.explain_work = Work(self._explain)
        self.run = Run.at(directory) if (directory / "recipe.json").is_file() else None
        self.training_rows = TrainingRows(self)

    @property
    def labels(self) -> list[str]:
        """The names of the labels."""
        return self.bundle.labels

    def for_tables(self, advance: Callable[[int], None]) -> Predictor:
        """The predictor for a separate thread, with lower priority than requests.

        advance: called with the number of texts after each batch; an exception from it ends the prediction.
        """
        return cast(Predictor, _InTurn(self.bundle, self.worker, self.predict_work, advance))

    def of_logits(self, logits: np.ndarray) -> list[Prediction]:
        """The predictions of logits (n, K)."""
        probabilities = self.bundle.probabilities(logits)
        names, sure = self.bundle.name(probabilities)
        decisions = self.bundle.decisions(names, sure) or names
        return [
            Prediction(name, float(own), decision, [float(value) for value in row])
            for name, own, decision, row in zip(names, sure, decisions, probabilities, strict=True)
        ]

    def _predict(self, requests: list[list[str]]) -> list[np.ndarray]:
        """The logits of each request's texts, all in one batch."""
        logits = self.bundle.logits([text for texts in requests for text in texts])
        return np.split(logits, np.cumsum([len(texts) for texts in requests])[:-1])

    def _explain(self, texts: list[str]) -> list[Explanation]:
        return [self._explain_one(text) for text in texts]

    def _explain_one(self, text: str) -> Explanation:
        from finetune.tasks.classify.explain import occlusion_shifts
        from finetune.training.predict import predict_states

        bundle, notes = self.bundle, []
        probabilities = bundle.probabilities(bundle.logits([text]))[0]
        several = isinstance(bundle, ManyLabels)
        label = int(probabilities.argmax() if several else bundle.decide(probabilities[None])[0])
        others = [at for at in np.argsort(-probabilities).tolist() if at != label]
        if not isinstance(bundle, Bundle):
            return Explanation(
                self.labels[label],
                "",
                [],
                [],
                ["The effect of tokens and the nearest training rows need a PyTorch model."],
            )
        [ids, *more] = read_ids(bundle, text)
        if more:
            notes.append("The text is read in windows; only the first is shown.")
        pieces = np.array_split(np.arange(len(ids)), min(len(ids), 128))
        against = None if several else others[0]
        shifts = occlusion_shifts(bundle, ids, pieces, label, against)
        tokens = [
            (bundle.tokenizer.decode([ids[at] for at in piece.tolist()]), float(shift))
            for piece, shift in zip(pieces, shifts, strict=True)
        ]
        near, why = self.training_rows.nearest(predict_states(bundle.model, [ids])[0])
        return Explanation(
            self.labels[label],
            "" if against is None else self.labels[against],
            tokens,
            near,
            [*notes, *([why] if why else [])],
        )


def read_ids(bundle: Bundle, text: str) -> list[list[int]]:
    """The pieces of a text's tokens that the model reads. Raises DataError for an empty text."""
    from finetune.training.pieces import pieces_of

    ids = bundle.tokenizer.encode(bundle.folded(text))
    return pieces_of(ids, bundle.long_texts, bundle.max_length)


class _InTurn:
    """A predictor that computes logits for a few texts at a time, when no other request is waiting."""

    def __init__(
        self, predictor: Predictor, worker: Worker, work: Work[list[str], np.ndarray], advance: Callable[[int], None]
    ):
        self._predictor, self._worker, self._work, self._advance = predictor, worker, work, advance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    def logits(self, texts: list[str]) -> np.ndarray:
        """As ``Predictor.logits``."""
        parts = []
        for at in range(0, len(texts), TABLE_TEXTS):
            own = texts[at : at + TABLE_TEXTS]
            parts.append(self._worker.submit(self._work, own, background=True).result())
            self._advance(len(own))
        return np.concatenate(parts)


class TrainingRows:
    """The hidden states of a sample of the run's training rows, computed in the background while no request is waiting."""

    def __init__(self, classifier: Classifier):
        self.rows: Sequence[LabelledRow] = []
        self.states: np.ndarray | None = None  # of unit length, (n, C)
        self.read, self.why = 0, ""
        bundle, run = classifier.bundle, classifier.run
        if not isinstance(bundle, Bundle):
            self.why = "The nearest training rows need a PyTorch model."
        elif run is None or not run.path("data", "train.jsonl").is_file():
            self.why = "A bundle has no training rows; serve the run itself to see the nearest ones."
        else:
            self.bundle, self.worker = bundle, classifier.worker
            threading.Thread(target=self._index, args=(run,), name="training rows", daemon=True).start()

    def nearest(self, state: np.ndarray) -> tuple[list[dict[str, Any]], str]:
        """The training rows with the nearest hidden states by cosine similarity, or why there are none yet."""
        from finetune.tasks.classify.explain import TEXT_LIMIT

        if self.states is None:
            return [], self.why or f"Reading training rows: {self.read:,} of {len(self.rows):,} so far."
        similar = self.states @ (state / max(float(np.linalg.norm(state)), 1e-12))
        order = np.argsort(-similar, kind="stable")[:NEIGHBOURS].tolist()
        return [
            {
                "row": self.rows[at].row,
                "text": self.rows[at].text[:TEXT_LIMIT],
                "label": self.rows[at].label,
                "similarity": float(similar[at]),
            }
            for at in order
        ], ""

    def _index(self, run: Run) -> None:
        from finetune.tasks.classify.explain import COMPARED
        from finetune.training.predict import predict_states

        bundle = self.bundle
        work: Work[list[list[int]], np.ndarray] = Work(
            lambda batches: [predict_states(bundle.model, batch) for batch in batches]
        )
        try:
            every = read_records(run, "train", LabelledRow)
            self.rows = every[:: max(1, -(-len(every) // COMPARED[1]))]
            parts = []
            for at in range(0, len(self.rows), INDEXED):
                ids = [read_ids(bundle, row.text)[0] for row in self.rows[at : at + INDEXED]]
                parts.append(self.worker.submit(work, ids, background=True).result())
                self.read = at + len(ids)
            states = np.concatenate(parts)
            self.states = states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
        except (FinetuneError, CancelledError, ValueError) as error:
            closing = isinstance(error, Problem)
            self.why = "" if closing else f"The training rows cannot be read: {error}"


def check_texts(texts: list[str], most: int, characters: int) -> None:
    """Raise Problem for texts that cannot be predicted."""
    if len(texts) > most:
        raise Problem(413, "too many texts", got=f"{len(texts):,}", known=f"{most:,} at most", do="Send a table.")
    for number, text in enumerate(texts):
        if len(text) > characters:
            raise Problem(
                413, f"text {number} is too long", got=f"{len(text):,} characters", known=f"{characters:,} at most"
            )
        if not text.strip():
            raise Problem(400, f"text {number} is empty", do="Leave it out.")
