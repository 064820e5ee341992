"""Decide for an aim: choose a decision rule on validation rows, measure it on test rows, and bound its error rates.

An aim is a value of ``evaluate.aim``: half, max-f1, cost, recall-at-fpr:X, precision:X or abstain:X. The rule is chosen on
validation rows only. A promise is a one-sided exact binomial bound (Clopper and Pearson 1934, Biometrika 26) on test
rows, which played no part in the choice: it holds for new rows of the same kind with the stated confidence.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.calibration import choose_threshold, decide
from finetune.evaluation.intervals import bootstrap, ratio_interval, wilson
from finetune.evaluation.results import Metric, undefined
from finetune.records import Record

CONFIDENCE = 0.9
BASE_RATES = (0.01, 0.05, 0.2)
ABSTAIN = "abstain"
_POINTS = 20  # of the curve of accuracy over coverage
_RESAMPLES, _SEED = 1000, 0

Costs = list[list[float]]  # of each true label (rows) and predicted label (columns)


@dataclass(frozen=True, kw_only=True)
class Rule(Record):
    """How probabilities become decisions, and whether validation rows reach the aim."""

    aim: str
    threshold: float | None = None  # on the probability of the positive label, for two labels
    costs: Costs | None = None  # predict the label of the least expected cost
    abstain_below: float | None = None  # abstain if the predicted label's probability is lower
    reached: bool = True  # whether the validation rows meet the aim
    sure: bool = True  # whether they also meet it by the bound at 90 % confidence, so that a promise is likely

    def predict(self, probabilities: np.ndarray, positive: int | None) -> np.ndarray:
        """The predicted class (n,) of each row of `probabilities` (n, K)."""
        return decide(probabilities, positive, self.threshold, self.costs)

    def decided(self, probabilities: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """bool (n,): the rows on which it does not abstain."""
        return decided_rows(probabilities[np.arange(len(predicted)), predicted], self.abstain_below)


@dataclass(frozen=True, kw_only=True)
class Promise(Record):
    """A statement on new rows, with 90 % confidence: `of` is at least the bound, or for errors and costs at most."""

    of: str  # accuracy, precision, false_positive_rate, risk or cost
    value: float | None  # on the test rows
    bound: float | None  # None: there are no rows
    n: int  # rows that it is measured on
    aim: float | None = None
    needed: int | None = None  # rows needed to promise the aim even if all are right

    @property
    def at_least(self) -> bool:
        """Whether the bound is a lower one."""
        return self.of in ("accuracy", "precision")

    @property
    def holds(self) -> bool:
        """Whether the aim itself is promised."""
        if self.bound is None or self.aim is None:
            return False
        return self.bound >= self.aim if self.at_least else self.bound <= self.aim


@dataclass(frozen=True)
class CoveragePoint(Record):
    """The most confident share of the test rows: their lowest probability, and their accuracy."""

    coverage: float
    confidence: float
    accuracy: Metric


@dataclass(frozen=True)
class BaseRate(Record):
    """Precision if this share of the rows is positive, with the recall and false positive rate of the test rows."""

    rate: float
    precision: Metric


@dataclass(frozen=True, kw_only=True)
class Decision(Record):
    """The rule, its results on validation and test rows, and its promise."""

    rule: Rule
    validation: dict[str, Metric]
    test: dict[str, Metric]
    promise: Promise
    coverage: list[CoveragePoint]
    base_rates: list[BaseRate]  # empty for more than two labels


def split_aim(aim: str) -> tuple[str, float | None]:
    """An aim's name and its number."""
    word, _, number = aim.partition(":")
    return word, float(number) if number else None


def choose_rule(aim: str, costs: Costs | None, y_val: ArrayLike, p_val: np.ndarray, positive: int | None) -> Rule:
    """Choose the rule for an aim on validation rows.

    y_val: classes (n,). p_val: calibrated probabilities (n, K). The aim cost minimises the expected cost under the
    calibrated probabilities; for two labels, that is a threshold (Elkan 2001, IJCAI, eq. 2). The other aims take the cut
    with the highest recall or coverage whose bound at 90 % confidence meets the aim; if there is none, a cut whose
    value meets it; else the cut that comes closest.
    """
    y_val, (word, wanted) = np.asarray(y_val, dtype=int), split_aim(aim)
    two = p_val.shape[1] == 2
    if word == "cost":
        assert costs is not None, "the aim cost has costs"
        if not two or positive is None:
            return Rule(aim=aim, costs=costs)
        miss, alarm = costs[positive][1 - positive], costs[1 - positive][positive]
        return Rule(aim=aim, threshold=alarm / (alarm + miss))
    half = 0.5 if two else None
    if word == "half" or len(y_val) == 0:
        return Rule(aim=aim, threshold=half, reached=word == "half", sure=word == "half")
    if word == ABSTAIN:
        assert wanted is not None, "a risk"
        predicted = decide(p_val, positive, half)
        confidence = p_val[np.arange(len(y_val)), predicted]
        cuts = _Cuts(predicted != y_val, confidence)
        at, reached, sure = _choose(cuts.hits, cuts.called, wanted)
        return Rule(aim=aim, threshold=half, abstain_below=cuts.threshold(at), reached=reached, sure=sure)
    assert positive is not None, f"{word} is for two labels"
    truth, p = y_val == positive, p_val[:, positive]
    if word == "max-f1":
        return Rule(aim=aim, threshold=choose_threshold(truth, p))
    assert wanted is not None, "a share"
    cuts = _Cuts(truth, p)
    errors, rows = cuts.called - cuts.hits, cuts.called
    if word == "recall-at-fpr":
        rows = np.full_like(rows, (~truth).sum())
    at, reached, sure = _choose(errors, rows, 1 - wanted if word == "precision" else wanted)
    return Rule(aim=aim, threshold=cuts.threshold(at), reached=reached, sure=sure)


class _Cuts:
    """Every cut between two different scores: the rows above it, and how many of them are hits."""

    def __init__(self, hit: np.ndarray, score: np.ndarray):
        order = np.argsort(-score, kind="stable")
        ranked = score[order]
        last = np.append(np.nonzero(np.diff(ranked))[0], len(score) - 1)
        self.hits, self.called = np.cumsum(hit[order])[last], last + 1
        self.above, self.below = ranked[last], np.append(ranked[last][1:], 0.0)

    def threshold(self, at: int) -> float:
        """Midway between the lowest score above the cut and the highest below."""
        middle = (self.above[at] + self.below[at]) / 2
        return float(middle if middle > self.below[at] else self.above[at])  # adjacent floats have no midpoint


def _choose(errors: np.ndarray, rows: np.ndarray, most: float) -> tuple[int, bool, bool]:
    """The last cut with at most this error rate; whether there is one, and whether one has it with confidence."""
    rates = errors / np.maximum(rows, 1)
    for met, sure in ((upper_bound(errors, rows) <= most, True), (rates <= most + 1e-12, False)):
        if met.any():
            return int(np.flatnonzero(met)[-1]), True, sure
    return int(np.flatnonzero(rates == rates.min())[-1]), False, False


def upper_bound(events: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE) -> np.ndarray:
    """The exact one-sided upper bound of a rate: at that rate, the probability of so few events is 1 - confidence."""
    from scipy.stats import beta

    events, n = np.asarray(events, dtype=float), np.asarray(n, dtype=float)
    return np.where(events < n, beta.ppf(confidence, events + 1, np.maximum(n - events, 0.5)), 1.0)


def mean_bound(mean: float, n: int, confidence: float = CONFIDENCE) -> float:
    """A one-sided upper bound of the mean of values between 0 and 1: Hoeffding 1963, J. Am. Stat. Assoc. 58, eq. 2.1."""
    from scipy.optimize import brentq
    from scipy.special import rel_entr

    def excess(at: float) -> float:
        return n * float(rel_entr(mean, at) + rel_entr(1 - mean, 1 - at)) + math.log(1 - confidence)

    top = 1 - 1e-12
    return float(brentq(excess, mean, top)) if mean < top and excess(top) > 0 else 1.0


def needed_rows(share: float, confidence: float = CONFIDENCE) -> int:
    """How many rows, all of them right, it takes to promise at least this share."""
    return math.ceil(math.log(1 - confidence) / math.log(share) - 1e-9)


def decided_rows(confidence: np.ndarray, abstain_below: float | None) -> np.ndarray:
    """bool (n,): the rows on which the rule decides, given the probability (n,) of each prediction."""
    return np.ones(len(confidence), dtype=bool) if abstain_below is None else confidence >= abstain_below


def outcome(
    y: np.ndarray, predicted: np.ndarray, decided: np.ndarray, positive: int | None, costs: Costs | None
) -> dict[str, Metric]:
    """The results of decisions: coverage, and on the decided rows accuracy, cost, and the rates of a positive label."""
    found = {"coverage": _share(int(decided.sum()), len(y), "no rows")}
    y, predicted = y[decided], predicted[decided]
    found["accuracy"] = _share(int((y == predicted).sum()), len(y), "no row is decided")
    if positive is not None:
        truth, called = y == positive, predicted == positive
        hits = int((truth & called).sum())
        found["precision"] = _share(hits, int(called.sum()), "no row is predicted as this label")
        found["recall"] = _share(hits, int(truth.sum()), "no row has this label")
        found["false_positive_rate"] = _share(
            int((called & ~truth).sum()), int((~truth).sum()), "no row has another label"
        )
    if costs is not None and len(y):
        paid = np.asarray(costs)[y, predicted]
        low, high = bootstrap(lambda counts: counts @ paid / len(paid), len(paid), _RESAMPLES, _SEED)
        found["cost"] = Metric(float(paid.mean()), low, high, len(paid))
    return found


def _share(hits: int, n: int, reason: str) -> Metric:
    return Metric(hits / n, *wilson(hits, n), n) if n else undefined(0, reason)


def promise(
    aim: str, y: np.ndarray, predicted: np.ndarray, decided: np.ndarray, positive: int | None, costs: Costs | None
) -> Promise:
    """The promise that the decisions on test rows (n,) support."""
    word, wanted = split_aim(aim)
    y, predicted = y[decided], predicted[decided]
    if word == "cost":
        assert costs is not None, "the aim cost has costs"
        dearest = float(np.max(costs))
        paid = np.asarray(costs, dtype=float)[y, predicted]
        if not len(paid):
            return Promise(of="cost", value=None, bound=None, n=0)
        mean = float(paid.mean())
        return Promise(of="cost", value=mean, bound=dearest * mean_bound(mean / dearest, len(paid)), n=len(paid))
    counted, of = np.ones(len(y), dtype=bool), "risk" if word == ABSTAIN else "accuracy"
    if word == "precision":
        counted, of = predicted == positive, "precision"
    elif word == "recall-at-fpr":
        counted, of = y != positive, "false_positive_rate"
    n, errors = int(counted.sum()), int((counted & (y != predicted)).sum())
    least = of in ("accuracy", "precision")
    needed = None if wanted is None else needed_rows(wanted if least else 1 - wanted)
    if n == 0:
        return Promise(of=of, value=None, bound=None, n=0, aim=wanted, needed=needed)
    most = float(upper_bound(errors, n))
    rate = errors / n
    return Promise(
        of=of, value=1 - rate if least else rate, bound=1 - most if least else most, n=n, aim=wanted, needed=needed
    )


def coverage_curve(y: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> list[CoveragePoint]:
    """The accuracy of the most confident 5, 10, ... 100 % of the rows; rows of equal confidence stay together."""
    n = len(y)
    order = np.argsort(-confidence, kind="stable")
    ranked, right = confidence[order], np.cumsum((y == predicted)[order])
    ends = {
        int(np.searchsorted(-ranked, -ranked[max(1, round(n * step / _POINTS)) - 1], side="right"))
        for step in (range(1, _POINTS + 1) if n else ())
    }
    return [
        CoveragePoint(end / n, float(ranked[end - 1]), _share(int(right[end - 1]), end, "")) for end in sorted(ends)
    ]


def base_rates(y: np.ndarray, predicted: np.ndarray, positive: int) -> list[BaseRate]:
    """Precision at other shares of the positive label, from recall and false positive rate (Bayes' theorem).

    The interval is that of the ratio of the two rates.
    """
    truth, called = y == positive, predicted == positive
    hits, alarms = int((truth & called).sum()), int((~truth & called).sum())
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives or not hits + alarms:
        return []
    low, high = ratio_interval(alarms, negatives, hits, positives)  # of false positive rate / recall
    value = alarms / negatives * positives / hits if hits else math.inf

    def precision(ratio: float, rate: float) -> float:
        return rate / (rate + (1 - rate) * ratio)

    return [
        BaseRate(rate, Metric(precision(value, rate), precision(high, rate), precision(low, rate), len(y)))
        for rate in BASE_RATES
    ]


def measure_decision(
    rule: Rule,
    costs: Costs | None,
    positive: int | None,
    y_val: np.ndarray,
    p_val: np.ndarray,
    y_test: np.ndarray,
    p_test: np.ndarray,
    clean: np.ndarray,
) -> Decision:
    """The results of a rule. clean: bool (n,), the test rows that are in no other split; only these count for the promise."""
    predicted = rule.predict(p_test, positive)
    decided = rule.decided(p_test, predicted)
    of_val = rule.predict(p_val, positive)
    confidence = p_test[np.arange(len(y_test)), predicted]
    return Decision(
        rule=rule,
        validation=outcome(y_val, of_val, rule.decided(p_val, of_val), positive, costs),
        test=outcome(y_test, predicted, decided, positive, costs),
        promise=promise(rule.aim, y_test[clean], predicted[clean], decided[clean], positive, costs),
        coverage=coverage_curve(y_test, predicted, confidence),
        base_rates=[] if positive is None else base_rates(y_test, predicted, positive),
    )
