"""Find labels that may be wrong, and measure how many deliberately planted errors the same search finds.

Labels are judged by confident learning (Northcutt, Jiang and Chuang 2021, J. Artif. Intell. Res. 70, arXiv:1911.00068)
on out-of-fold probabilities: no row is judged by a model that was trained on its label, or on that of a copy of it.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.evaluation.intervals import wilson
from finetune.records import Record

FOLDS = 5
PLANTED_SHARE = 0.02
LARGEST_SHARE = 0.5  # of a label's rows; more would mean that the features cannot predict the label
_FEWEST_PLANTED = 10  # with few rows, errors are planted in several rounds
_MOST_ROUNDS = 5
_FLOOR = 1e-9  # of a probability


@dataclass(frozen=True)
class Features:
    """The features that labels are predicted from: one row per text, (n, F) dense or sparse."""

    name: str
    values: Any
    cost: float  # C, the inverse strength of the logistic regression's L2 penalty


@dataclass(frozen=True)
class Planted(Record):
    """An evaluation of the search: labels changed at random, and how many of these rows it lists."""

    rows: int  # changed, over all rounds
    found: int
    low: float  # low, high: 95 % interval of the share that is found
    high: float
    listed: int  # listed rows of all rounds, planted or not
    rounds: int


@dataclass(frozen=True)
class Suspect(Record):
    """A row whose label may be wrong."""

    row: int  # its number in the data file
    split: str
    text: str
    label: str
    suggested: str
    quality: float  # the probability of the label, from 0 to 1


@dataclass(frozen=True, kw_only=True)
class LabelAudit(Record):
    """The content of label_audit.json."""

    schema_version: int
    rows: int  # judged rows
    suspects: dict[str, int]  # split -> rows in label_suspects.csv
    features: list[str]
    planted: Planted
    seconds: float
    capped: list[str] = field(default_factory=list)  # labels with more suspects than are listed
    unjudged: list[str] = field(default_factory=list)  # labels with a single text, so no other row can teach them
    worst: list[Suspect] = field(default_factory=list)  # the first rows of label_suspects.csv


@dataclass(frozen=True)
class Audited(Record):
    """The result of the stage ``audit``."""

    suspects: int | None  # None: no search
    left_out: str = ""  # reason


@dataclass(frozen=True)
class Search:
    """The result of a search in n rows with K labels."""

    order: np.ndarray  # the listed rows, the most suspicious first
    quality: np.ndarray  # (n,) the probability of each row's own label
    suggested: np.ndarray  # (n,) the most probable other label
    capped: np.ndarray  # bool (K,): labels with more suspects than are listed


def judged_rows(targets: np.ndarray, groups: np.ndarray, teaching: np.ndarray) -> np.ndarray:
    """bool (n,): whether a row can be judged, since a teaching row of another group has its label."""
    pairs = np.unique(np.stack([targets, groups])[:, teaching], axis=1)
    groups_of = np.bincount(pairs[0], minlength=targets.max() + 1)
    found: np.ndarray = groups_of[targets] > teaching
    return found


def assign_audit_folds(targets: np.ndarray, groups: np.ndarray, teaching: np.ndarray, seed: int) -> np.ndarray:
    """The fold (n,) of each row: a group's rows together, stratified by the label of each group's first row.

    groups: (n,), numbered from 0. teaching: bool (n,); the other rows are in the fold FOLDS, which is never trained on.
    """
    first = np.unique(groups, return_index=True)[1]
    order = np.lexsort((np.random.default_rng(seed).random(len(first)), targets[first]))
    folds = np.empty(len(first), dtype=int)
    folds[order] = np.arange(len(first)) % FOLDS
    return np.where(teaching, folds[groups], FOLDS)


def out_of_fold(features: list[Features], targets: np.ndarray, folds: np.ndarray, k: int) -> np.ndarray:
    """Out-of-fold probabilities (n, k) of each row's labels: the geometric mean over the kinds of features."""
    from sklearn.linear_model import LogisticRegression

    logs = np.zeros((len(targets), k))
    for fold in np.unique(folds):
        learnt, judged = np.flatnonzero((folds != fold) & (folds < FOLDS)), np.flatnonzero(folds == fold)
        if len(np.unique(targets[learnt])) < 2:
            continue  # a single label: leave the probabilities uniform
        for own in features:
            found = np.full((len(judged), k), _FLOOR)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # close enough after the last iteration
                model = LogisticRegression(C=own.cost, max_iter=100).fit(own.values[learnt], targets[learnt])
            found[:, model.classes_] = np.maximum(model.predict_proba(own.values[judged]), _FLOOR)
            logs[judged] += np.log(found) / len(features)
    probabilities = np.exp(logs - logs.max(axis=1, keepdims=True))
    normalised: np.ndarray = probabilities / probabilities.sum(axis=1, keepdims=True)
    return normalised


def find_label_issues(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """bool (n,): the rows that cleanlab's confident learning considers wrongly labelled.

    targets: (n,), containing every one of the k columns of `probabilities` (n, k). The only place that imports cleanlab.
    """
    from cleanlab.filter import find_label_issues as find

    found: np.ndarray = find(targets, probabilities, n_jobs=1)
    return found


def search(
    features: list[Features], targets: np.ndarray, groups: np.ndarray, teaching: np.ndarray, k: int, seed: int
) -> Search:
    """List the rows whose label may be wrong. targets, groups: (n,), numbers of labels and of groups.

    teaching: bool (n,), the rows that models are trained on; test rows are judged only.
    A row is listed if confident learning considers its label wrong; for each label, at most the worst half of its rows.
    """
    probabilities = out_of_fold(features, targets, assign_audit_folds(targets, groups, teaching, seed), k)
    at = np.arange(len(targets))
    quality = probabilities[at, targets]
    others = probabilities.copy()
    others[at, targets] = -1
    judged = judged_rows(targets, groups, teaching)
    present, numbers = np.unique(targets[judged], return_inverse=True)
    issues = np.zeros(len(targets), dtype=bool)
    if len(present) > 1:
        own = probabilities[np.ix_(judged, present)]
        issues[judged] = find_label_issues(numbers, own / own.sum(axis=1, keepdims=True))
    order, capped = np.lexsort((at, quality)), np.zeros(k, dtype=bool)
    order = order[issues[order]]
    kept = np.zeros(len(targets), dtype=bool)
    for label, count in enumerate(np.bincount(targets, minlength=k)):
        listed = order[targets[order] == label]
        most = int(count * LARGEST_SHARE)
        kept[listed[:most]], capped[label] = True, len(listed) > most
    return Search(order[kept[order]], quality, others.argmax(axis=1), capped)


def measure_search(
    features: list[Features], targets: np.ndarray, groups: np.ndarray, teaching: np.ndarray, k: int, seed: int
) -> Planted:
    """Plant wrong labels in 2 % of the rows, search again, and count."""
    generator = np.random.default_rng(seed)
    count = max(1, round(PLANTED_SHARE * len(targets)))
    rounds = min(_MOST_ROUNDS, -(-_FEWEST_PLANTED // count))
    found = listed = 0
    for number in range(rounds):
        rows = generator.choice(len(targets), count, replace=False)
        wrong = targets.copy()
        wrong[rows] = (targets[rows] + generator.integers(1, k, count)) % k
        order = search(features, wrong, groups, teaching, k, seed + number).order
        found += int(np.isin(rows, order).sum())
        listed += len(order)
    return Planted(count * rounds, found, *wilson(found, count * rounds), listed, rounds)


def counts_text(audit: LabelAudit) -> str:
    """How many rows are suspected, in a sentence."""
    total = sum(audit.suspects.values())
    where = ", ".join(f"{split} {count:,}" for split, count in audit.suspects.items())
    return f"{total:,} of {audit.rows:,} rows have a label that may be wrong" + (f" ({where})." if total else ".")


def planted_text(audit: LabelAudit) -> str:
    """How reliable the list is: the planted errors that the search finds, in a sentence."""
    own = audit.planted
    rounds = f" in {own.rounds} rounds" if own.rounds > 1 else ""
    low, share, high = (f"{100 * value:.0f}" for value in (own.low, own.found / own.rows, own.high))
    return (
        f"To test the search, {own.rows:,} labels were changed on purpose{rounds}: it then listed {own.listed:,} rows, among "
        f"them {own.found:,} of the {own.rows:,} ({share} %, 95 % interval {low} to {high}), so "
        f"{100 * own.found / max(own.listed, 1):.0f} % of the list were changed labels. The fewer labels are wrong, the "
        "larger the share of listed rows that are correctly labelled but hard."
    )
