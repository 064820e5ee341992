"""Evidence on a classifier's errors: slices, the shortcut, changes that flip decisions, occlusion, near training rows.

All of it together reads about as many tokens as one pass over the training rows, within the limits below.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from finetune.evaluation.aims import Rule
from finetune.evaluation.calibration import softmax
from finetune.evaluation.explanations import ExplainedError, Explanations, NearDuplicates, Neighbour, Span
from finetune.evaluation.metrics import classification_metrics
from finetune.evaluation.robustness import CHANGES, changed_texts, flips
from finetune.evaluation.shortcut import find_shortcut
from finetune.evaluation.slices import measure_slices, text_slices, value_slices
from finetune.models.heads import Classifier
from finetune.tables.near_duplicates import find_near_duplicates
from finetune.tables.splits import SPLITS, text_keys
from finetune.tasks.classify.data import LabelledRow
from finetune.tasks.classify.job import Examples
from finetune.tokenizer import Tokenizer
from finetune.training.predict import predict_logits, predict_states
from finetune.training.token_rows import encode

ERRORS = 10  # wrong predictions that are explained, the most confident ones
SPANS = (16, 64)  # minimum and maximum number of pieces hidden one by one; a longer text has longer pieces
SHOWN_SPANS, SHOWN_NEIGHBOURS = 5, 3
CHANGED = (40, 200)  # minimum and maximum number of changed test rows
COMPARED = (150, 2000)  # training rows whose hidden states are compared
SEARCHED = 20_000  # training rows searched by their words, to choose those
SHARES = (0.5, 0.2, 0.3)  # shares of the tokens for changes, hidden states and occlusion
DUPLICATES = 100_000  # rows searched for near duplicates
TEXT_LIMIT = 200  # characters kept of a training text


@dataclass(frozen=True)
class Trained:
    """A model with its input settings and decision rule, for explanations."""

    model: Classifier
    tokenizer: Tokenizer
    labels: list[str]
    positive: int | None
    rule: Rule
    temperature: float
    max_length: int
    fold: Callable[[str], str]

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """The predicted class (n,) of logits (n, K)."""
        return self.rule.predict(softmax(logits, self.temperature), self.positive)


@dataclass(frozen=True)
class Effort:
    """How many rows are read for explanations."""

    changed: int  # test rows
    compared: int  # training rows
    pieces: int  # of each wrong row

    @classmethod
    def of(cls, train: Sequence[int], test: Sequence[int]) -> "Effort":
        """About one pass over the training rows. train, test: tokens of each row."""
        budget = sum(train)
        row, test_row = (max(float(np.mean(lengths)), 1.0) for lengths in (train, test))
        costs = (len(CHANGES) * test_row, row, ERRORS * test_row)
        counts = (share * budget / cost for share, cost in zip(SHARES, costs, strict=True))
        limits = (CHANGED, COMPARED, SPANS)
        return cls(*(int(np.clip(count, *ends)) for count, ends in zip(counts, limits, strict=True)))


def explain(
    trained: Trained,
    records: dict[str, list[LabelledRow]],
    parts: dict[str, Examples],
    test_logits: np.ndarray,
    groups: dict[int, str] | None = None,
    group_column: str = "",
    resamples: int = 1000,
) -> Explanations:
    """Explain the predictions on the test rows. groups: row number -> value of the group column."""
    texts = {name: [record.text for record in records[name]] for name in SPLITS}
    y, predicted = parts["test"].targets, trained.decide(test_logits)
    effort = Effort.of(*([len(ids) for ids in parts[name].ids] for name in ("train", "test")))
    near = near_other_splits(texts)
    members = text_slices(texts["test"], texts["train"])
    members |= value_slices("label", [record.label for record in records["test"]])
    if groups:
        members |= value_slices(group_column, [groups.get(record.row, "") for record in records["test"]])
    members["nearly the text of a training or validation row"] = near
    errors, compared = explain_errors(trained, records, parts, test_logits, predicted, effort)
    probabilities = softmax(test_logits, trained.temperature)[~near]
    rest = classification_metrics(
        y[~near], predicted[~near], probabilities, trained.labels, trained.positive, resamples, seed=0
    )
    changed, found = changed_decisions(trained, texts["test"], predicted, effort.changed)
    return Explanations(
        slices=measure_slices(members, predicted == y),
        shortcut=find_shortcut(texts["train"], parts["train"].targets, texts["test"], y, predicted, trained.labels),
        flips=found,
        flip_rows=changed,
        errors=errors,
        compared=compared,
        near=NearDuplicates(int(near.sum()), int((~near).sum()), rest),
    )


def near_other_splits(texts: dict[str, list[str]]) -> np.ndarray:
    """bool (n,): the test rows that are a near (or exact) duplicate of a training or validation row."""
    test, others = texts["test"], texts["train"] + texts["val"]
    others = others[:: max(1, -(-len(others) // DUPLICATES))]
    every = [*others, *test]
    cluster = find_near_duplicates(every, text_keys(every)).cluster
    return np.isin(cluster[len(others) :], cluster[: len(others)])


def changed_decisions(
    trained: Trained, texts: list[str], predicted: np.ndarray, most: int = CHANGED[1]
) -> tuple[int, list]:
    """The number of test rows that are changed, and how often each change flips the decision."""
    at = np.arange(0, len(texts), max(1, -(-len(texts) // most)))
    changes = changed_texts([texts[i] for i in at], trained.fold)
    flat = [text for own in changes.values() for text in own.values()]
    rows = encode(trained.tokenizer, flat, trained.max_length)
    decided = trained.decide(predict_logits(trained.model, rows)) if flat else np.zeros(0, dtype=int)
    found, start = [], 0
    for change, own in changes.items():
        before = predicted[at[list(own)]] if own else np.zeros(0, dtype=int)
        found.append(flips(change, before, decided[start : start + len(own)]))
        start += len(own)
    return len(at), found


def explain_errors(
    trained: Trained,
    records: dict[str, list[LabelledRow]],
    parts: dict[str, Examples],
    logits: np.ndarray,
    predicted: np.ndarray,
    effort: Effort,
) -> tuple[list[ExplainedError], int]:
    """The most confident wrong predictions explained, and the number of training rows they were compared with."""
    y = parts["test"].targets
    wrong = np.flatnonzero(predicted != y)
    sure = softmax(logits, trained.temperature)[wrong, predicted[wrong]]
    wrong = wrong[np.argsort(-sure, kind="stable")][:ERRORS]
    if not len(wrong):
        return [], 0
    kept = candidates(
        [record.text for record in records["train"]], [records["test"][i].text for i in wrong], effort.compared
    )
    known = predict_states(trained.model, [parts["train"].ids[i] for i in kept.tolist()])
    own = predict_states(trained.model, [parts["test"].ids[i] for i in wrong.tolist()])
    cosine = _unit(own) @ _unit(known).T
    found = []
    for at, row in enumerate(wrong.tolist()):
        record = records["test"][row]
        nearest = np.argsort(-cosine[at], kind="stable")[:SHOWN_NEIGHBOURS]
        found.append(
            ExplainedError(
                record.row,
                record.label,
                trained.labels[predicted[row]],
                occlude(trained, parts["test"].ids[row], int(predicted[row]), int(y[row]), effort.pieces),
                [_neighbour(records["train"][kept[i]], float(cosine[at, i])) for i in nearest],
            )
        )
    return found, len(kept)


def candidates(train: list[str], texts: list[str], most: int) -> np.ndarray:
    """Positions of training texts whose hidden states are compared: the most similar by their words, and an even sample.

    Words are weighted by TF-IDF (Salton and Buckley 1988).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len(train) <= most:
        return np.arange(len(train))
    searched = np.arange(0, len(train), max(1, -(-len(train) // SEARCHED)))
    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
    try:
        vectors = vectorizer.fit_transform([train[at] for at in searched.tolist()])
    except ValueError:  # scikit-learn's only sign of an empty vocabulary
        return searched[:most]
    alike = (vectorizer.transform(texts) @ vectors.T).toarray()  # (len(texts), len(searched))
    nearest = np.argsort(-alike, axis=1, kind="stable")[:, : max(SHOWN_NEIGHBOURS, most // (2 * len(texts)))]
    even = np.arange(0, len(train), -(-2 * len(train) // most))
    found: np.ndarray = np.unique(np.concatenate([searched[nearest.ravel()], even]))
    return found


def _neighbour(record: LabelledRow, similarity: float) -> Neighbour:
    return Neighbour(record.row, record.text[:TEXT_LIMIT], record.label, similarity)


def _unit(states: np.ndarray) -> np.ndarray:
    return states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)


def occlude(trained: Trained, ids: list[int], predicted: int, true: int, most: int = SPANS[1]) -> list[Span]:
    """The pieces of a text that move the log-odds of the predicted against the true label most when they are hidden.

    Occlusion (Zeiler and Fergus 2014, arXiv:1311.2901): the tokens of a piece are replaced by blanks. Evidence on the
    decision, not its cause.
    """
    pieces = np.array_split(np.arange(len(ids)), min(most, len(ids)))
    shifts = occlusion_shifts(trained, ids, pieces, predicted, true)
    order = np.argsort(-np.abs(shifts), kind="stable")[:SHOWN_SPANS]
    return [Span(trained.tokenizer.decode([ids[i] for i in pieces[at]]), float(shifts[at])) for at in order]


class Reads(Protocol):
    """The parts of a classifier that occlusion needs."""

    @property
    def model(self) -> Classifier:
        """The model."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""

    @property
    def temperature(self) -> float:
        """The divisor of its logits."""


def occlusion_shifts(
    trained: Reads, ids: list[int], pieces: Sequence[np.ndarray], predicted: int, true: int | None
) -> np.ndarray:
    """The decrease of the log-odds when each of the pieces (indices of tokens) is hidden: (pieces,).

    true: the label to compare the predicted one with. None: the predicted label's own odds, if a text may have many.
    """
    blank = trained.tokenizer.encode(" ")[0]
    texts = [ids] + [[blank if i in hidden else token for i, token in enumerate(ids)] for hidden in map(set, pieces)]
    logits = predict_logits(trained.model, texts).astype(np.float64)
    odds = (logits[:, predicted] - (0.0 if true is None else logits[:, true])) / trained.temperature
    found: np.ndarray = odds[0] - odds[1:]
    return found
