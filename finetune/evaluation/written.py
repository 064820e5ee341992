"""Scores of generated texts against references and baselines, with intervals and paired tests.

A metric is built from statistics that sum over rows, so that its value on any resample is a matrix product.
Sources: Papineni et al. 2002, ACL (BLEU) and Popović 2015, WMT (chrF), by the library sacrebleu (Post 2018,
arXiv:1804.08771), whose signatures say how; Koehn 2004, EMNLP (bootstrap of a corpus score).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.intervals import bootstrap, paired_differences, wilson
from finetune.evaluation.results import Difference, Evaluation, Headline, Metric, undefined
from finetune.evaluation.slices import Slices, measure_slices
from finetune.evaluation.text_scores import word_counts
from finetune.records import Record

BLEU_WORDS = 4  # BLEU's maximum n-gram order; punctuation counts as words


@dataclass(frozen=True)
class WrittenBaseline(Record):
    """A baseline on the same rows; differences: metric -> the model's value minus the baseline's."""

    name: str
    metrics: dict[str, Metric]
    test: str
    p_value: float  # of the difference in the headline metric
    differences: dict[str, Difference]


@dataclass(frozen=True)
class CleanPart(Record):
    """The test rows found in no other split, and the metrics on them."""

    n: int
    metrics: dict[str, Metric]


@dataclass(frozen=True)
class LossChange(Record):
    """A loss before and after training."""

    split: str
    before: Metric
    after: Metric
    on: str = ""  # which tokens, if there is a choice


@dataclass(frozen=True, kw_only=True)
class WrittenEvaluation(Evaluation):
    """The eval.json of a generative model; each task adds its own samples."""

    baselines: list[WrittenBaseline]
    clean: CleanPart
    losses: list[LossChange]
    slices: Slices | None = None


@dataclass(frozen=True)
class WrittenTexts:
    """One system's outputs for the test rows, and its teacher-forced predictions of the references."""

    texts: list[str]
    ended: list[bool] | None = None  # whether the end token came within the token budget
    nats: np.ndarray | None = None  # (n,) cross-entropy of each reference, summed over its tokens
    right: np.ndarray | None = None  # (n,) tokens of each reference with the highest probability


@dataclass(frozen=True)
class References:
    """The reference answers."""

    texts: list[str]
    tokens: np.ndarray  # (n,) token counts, as the model is trained on them


@dataclass(frozen=True)
class Scores:
    """The statistics of a metric per row, which sum over rows."""

    sums: np.ndarray  # (n, K); for a ratio K is 2: numerator and denominator
    over: np.ndarray  # bool (n,): the rows it is measured on
    least: float = 1.0  # minimum of sums[:, 1] in some row for the metric to be defined
    reason: str = ""  # why it is undefined
    share: bool = False  # a proportion: each row counts 0 or 1
    corpus: Any = None  # sacrebleu's metric, for a corpus-level score

    def value(self, counts: np.ndarray) -> np.ndarray:
        """The metric for row counts (R, n) -> (R,); NaN where undefined."""
        sums = counts @ self.sums  # (R, K)
        if self.corpus is not None:
            return np.array([self.corpus._compute_score_from_stats(list(own)).score for own in sums])
        return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)

    def defined(self) -> bool:
        """Whether the metric has a value on these rows."""
        return bool((self.sums[:, 1] >= self.least).any())

    def take(self, rows: np.ndarray) -> "Scores":
        """The statistics of some rows, (m,) positions or bool (n,)."""
        return replace(self, sums=self.sums[rows], over=self.over[rows])


def row_scores(own: Scores) -> np.ndarray:
    """The metric of each row by itself (n,); NaN where it is not measured."""
    if own.corpus is not None:
        return np.array([own.corpus._compute_score_from_stats(list(row)).score for row in own.sums])
    return np.divide(
        own.sums[:, 0], own.sums[:, 1], out=np.full(len(own.sums), np.nan), where=own.over & (own.sums[:, 1] > 0)
    )


ScoreRows = Callable[[WrittenTexts, References], dict[str, Scores]]


def ratio(above: ArrayLike, below: ArrayLike, reason: str = "") -> Scores:
    """A ratio of two sums over rows, (n,) each."""
    sums = np.stack([above, below], axis=1).astype(np.float64)
    return Scores(sums, np.ones(len(sums), dtype=bool), reason=reason)


def mean(
    values: Sequence[float] | np.ndarray, over: np.ndarray | None = None, share: bool = False, reason: str = ""
) -> Scores:
    """The mean of per-row values (n,). over: bool (n,), the rows to include; default all."""
    over = np.ones(len(values), dtype=bool) if over is None else over
    sums = np.stack([np.where(over, values, 0), over], axis=1).astype(np.float64)
    return Scores(sums, over, reason=reason, share=share)


def corpus_scores(metrics: dict[str, Any], texts: list[str]) -> dict[str, Scores]:
    """sacrebleu's metrics by name, with references cached by ``corpus_metrics``."""
    found = {}
    for name, metric in metrics.items():
        sums = np.array(metric._extract_corpus_statistics(texts, None), dtype=np.float64)
        found[name] = Scores(
            sums,
            np.ones(len(sums), dtype=bool),
            BLEU_WORDS if name == "bleu" else 0,
            f"no reference has {BLEU_WORDS} words",
            corpus=metric,
        )
    return found


def corpus_metrics(references: list[str]) -> dict[str, Any]:
    """sacrebleu's BLEU and chrF against these references, 0 to 100."""
    from sacrebleu.metrics import BLEU, CHRF

    return {
        "bleu": BLEU(force=True, references=[references]),  # force: no warning about tokenised input
        "chrf": CHRF(references=[references]),
    }


def length_ratio(texts: list[str], references: list[str]) -> Scores:
    """Words of all texts over words of all references."""
    return ratio(word_counts(texts), word_counts(references), "the references have no words")


def reference_scores(written: WrittenTexts, references: References) -> dict[str, Scores]:
    """The teacher-forced metrics that were measured: token_accuracy and log_loss (nats per token)."""
    return {
        name: ratio(sums, references.tokens)
        for name, sums in (("token_accuracy", written.right), ("log_loss", written.nats))
        if sums is not None
    }


def measure(scores: dict[str, Scores], resamples: int, seed: int) -> dict[str, Metric]:
    """Every metric with its interval, and perplexity if there is a log_loss.

    Proportions have Wilson's interval, the others a bootstrap interval from the same resamples.
    """
    n = len(next(iter(scores.values())).sums)

    def statistic(counts: np.ndarray) -> np.ndarray:  # (R, n) -> (R, M)
        return np.stack([own.value(counts) for own in scores.values()], axis=1)

    values = statistic(np.ones((1, n)))[0]
    lows, highs = bootstrap(statistic, n, resamples, seed)
    metrics = {}
    for (name, own), value, low, high in zip(scores.items(), values, lows, highs, strict=True):
        rows = int(own.over.sum())
        if not own.defined():
            metrics[name] = undefined(rows, own.reason)
            continue
        if own.share:
            low, high = wilson(int(own.sums[:, 0].sum()), rows)
        metrics[name] = Metric(float(value), float(low), float(high), rows)
    if "log_loss" in metrics:
        loss = metrics["log_loss"]
        value, low, high = (float(np.exp(min(nats, 50.0))) for nats in loss.known())
        metrics["perplexity"] = Metric(value, low, high, loss.n)
    return metrics


def paired(
    own: dict[str, Scores], other: dict[str, Scores], names: list[str], resamples: int, seed: int
) -> dict[str, Difference]:
    """Differences of metrics, own minus other, with a paired bootstrap over the rows of each metric."""
    groups: dict[bytes, list[str]] = {}
    for name in names:
        groups.setdefault(own[name].over.tobytes(), []).append(name)
    found: dict[str, Difference] = {}
    for group in groups.values():
        rows = np.flatnonzero(own[group[0]].over)
        sides = [[scores[name].take(rows) for name in group] for scores in (own, other)]

        def statistic(counts: np.ndarray, sides: list[list[Scores]] = sides) -> np.ndarray:  # (R, m) -> (R, M)
            mine, theirs = (np.stack([one.value(counts) for one in side], axis=1) for side in sides)
            return mine - theirs

        found |= dict(zip(group, paired_differences(statistic, len(rows), resamples, seed), strict=True))
    return {name: found[name] for name in names}


@dataclass(frozen=True)
class WrittenScores:
    """The evaluation of generated texts."""

    headline: Headline
    metrics: dict[str, Metric]
    baselines: list[WrittenBaseline]
    clean: CleanPart
    slices: Slices


def score_written(
    own: WrittenTexts,
    references: References,
    baselines: dict[str, WrittenTexts],
    clean: np.ndarray,
    score_rows: ScoreRows,
    headline: str,
    compared: tuple[str, ...],
    resamples: int,
    seed: int,
    members: dict[str, np.ndarray] | None = None,
) -> WrittenScores:
    """Metrics of a model's texts and of baselines on the same rows, with paired tests.

    clean: bool (n,), the rows found in no other split. headline: a metric that is defined. compared: the metrics to
    test, if defined for both the model and the baseline. members: name of a slice -> bool (n,).
    """
    scores = score_rows(own, references)
    metrics = measure(scores, resamples, seed)
    entries = []
    for name, texts in baselines.items():
        other = score_rows(texts, references)
        both = [metric for metric in compared if metric in other and metric in scores and scores[metric].defined()]
        differences = paired(scores, other, both, resamples, seed)
        entries.append(
            WrittenBaseline(
                name, measure(other, resamples, seed), "paired bootstrap", differences[headline].p(), differences
            )
        )
    rows = np.flatnonzero(clean)
    alone = measure({name: part.take(rows) for name, part in scores.items()}, resamples, seed) if len(rows) else {}
    return WrittenScores(
        Headline(**vars(metrics[headline]), metric=headline, split="test"),
        metrics,
        entries,
        CleanPart(len(rows), alone),
        measure_slices(members or {}, row_scores(scores[headline]), headline, scores[headline].share),
    )


def loss_change(
    split: str, nats: dict[str, np.ndarray], tokens: list[int], resamples: int, seed: int, on: str = ""
) -> LossChange:
    """The loss in nats per token before and after training. nats: "before" and "after" -> sum per row (n,)."""
    before, after = (
        measure({"log_loss": ratio(nats[state], tokens)}, resamples, seed)["log_loss"] for state in ("before", "after")
    )
    return LossChange(split, before, after, on)
