"""The evaluation of a tagger: names found as seqeval counts them, with intervals, beside two baselines.

A name is right if its kind, its first and its last word are (Tjong Kim Sang and De Meulder 2003, CoNLL-2003). Intervals
and tests resample whole sentences, since the names of one sentence are not independent.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.evaluation.intervals import Statistic, bootstrap, paired_differences
from finetune.evaluation.results import Difference, Evaluation, Headline, Metric, Start, undefined
from finetune.records import Record
from finetune.report.metric_text import METRIC_NAMES, metric_text, metric_value, p_text, points
from finetune.tasks.tag.sentences import Sentence
from finetune.tasks.tag.spans import OUTSIDE, Span, spans_of

METRICS = ("precision", "recall", "f1", "f1_macro", "accuracy", "exact_match")
SHOWN = 12  # wrong sentences in the report
RIGHT, KIND, BOUNDS, BOTH, MISSED = "right", "other kind", "other bounds", "both", "missed"
OUTCOMES = (RIGHT, KIND, BOUNDS, BOTH, MISSED)


@dataclass(frozen=True)
class EntityCounts:
    """Counts that sum over sentences, so that a metric on any resample is a matrix product."""

    kinds: list[str]
    names: np.ndarray  # (n, kinds, 3): right, predicted and true names of each sentence
    words: np.ndarray  # (n, 2): words with the right tag, words
    exact: np.ndarray  # (n,): whether all tags are right


@dataclass(frozen=True)
class KindScores(Record):
    """Precision, recall and F1 on the names of a kind."""

    kind: str
    precision: Metric
    recall: Metric
    f1: Metric
    names: int
    predicted: int


@dataclass(frozen=True)
class KindOutcomes(Record):
    """The outcomes of the true names of a kind, and the number of its predicted names that overlap no true one."""

    kind: str
    outcomes: dict[str, int]  # one of OUTCOMES -> true names
    invented: int  # predicted names that overlap no true name


@dataclass(frozen=True)
class Known(Record):
    """Recall on the test's names that also occur in train, and on those that do not."""

    who: str
    seen: Metric
    unseen: Metric


@dataclass(frozen=True)
class WrongSentence(Record):
    """A sentence with a wrong tag."""

    row: int
    words: list[str]
    tags: list[str]
    predicted: list[str]


@dataclass(frozen=True)
class TagBaseline(Record):
    """A baseline on the same sentences; differences: metric -> the model's value minus the baseline's."""

    name: str
    metrics: dict[str, Metric]
    differences: dict[str, Difference]
    note: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TagEvaluation(Evaluation):
    """The content of a tagger's eval.json. `metrics` are those of the test sentences."""

    validation: dict[str, Metric]
    baselines: list[TagBaseline]
    tags: list[str]
    kinds: list[KindScores]
    outcomes: list[KindOutcomes]
    known: list[Known]
    word_kinds: list[str]
    word_confusion: list[list[int]]  # words by true kind (rows) and predicted kind (columns)
    wrong: list[WrongSentence]
    wrong_sentences: int
    overlapping: int  # test sentences that also occur in train or validation
    clean: Metric  # the headline without these
    cut_words: int  # test words beyond the model's context, tagged O


def decode(logits: Sequence[np.ndarray], tags: list[str], sentences: Sequence[Sentence]) -> list[list[str]]:
    """The most probable tag of each word; O for words that were cut off. logits: (W, K) of each sentence."""
    found = []
    for own, sentence in zip(logits, sentences, strict=True):
        chosen = [tags[at] for at in own.argmax(1).tolist()]
        found.append(chosen + [OUTSIDE] * (len(sentence.words) - len(chosen)))
    return found


def entity_counts(
    sentences: Sequence[Sentence], predicted: Sequence[Sequence[str]], tags: Sequence[str]
) -> EntityCounts:
    """The counts of each sentence. predicted: a tag for each word. tags: all tags."""
    kinds = sorted({tag[2:] for tag in tags if tag != OUTSIDE})
    number = {kind: at for at, kind in enumerate(kinds)}
    names = np.zeros((len(sentences), len(kinds), 3))
    words = np.zeros((len(sentences), 2))
    for row, (own, guess) in enumerate(zip(sentences, predicted, strict=True)):
        true, found = set(spans_of(own.tags)), set(spans_of(guess))
        for place, spans in enumerate((true & found, found, true)):
            for span in spans:
                names[row, number[span.kind], place] += 1
        words[row] = sum(a == b for a, b in zip(own.tags, guess, strict=True)), len(own.words)
    return EntityCounts(kinds, names, words, words[:, 0] == words[:, 1])


def scores_of(counts: EntityCounts) -> dict[str, float]:
    """Each of METRICS on all sentences."""
    values = statistics(counts)(np.ones((1, len(counts.exact))))[0]
    return dict(zip(METRICS, values.tolist(), strict=True))


def statistics(counts: EntityCounts) -> Callable[[np.ndarray], np.ndarray]:
    """How often each sentence is drawn (R, n) -> METRICS (R, M), as ``evaluation.intervals`` expects.

    As in seqeval, precision, recall and F1 are 0 if there are no predicted or no true names, and the macro F1 is the
    mean over the kinds that occur.
    """
    flat = counts.names.reshape(len(counts.names), -1)

    def of(drawn: np.ndarray) -> np.ndarray:
        names = (drawn @ flat).reshape(len(drawn), -1, 3)  # (R, kinds, 3)
        kinds, all_kinds = _precision_recall_f1(names), _precision_recall_f1(names.sum(1))
        present = names[:, :, 1:].sum(2) > 0
        macro = _ratio((kinds[:, :, 2] * present).sum(1), present.sum(1))
        words = drawn @ counts.words
        exact = drawn @ counts.exact / drawn.sum(1)
        return np.column_stack([all_kinds, macro, _ratio(words[:, 0], words[:, 1]), exact])

    return of


def measure(counts: EntityCounts, resamples: int, seed: int) -> dict[str, Metric]:
    """Each of METRICS with its interval."""
    n = len(counts.exact)
    return _metrics(METRICS, statistics(counts), n, resamples, seed)


def per_kind(counts: EntityCounts, resamples: int, seed: int) -> list[KindScores]:
    """Precision, recall and F1 of each kind."""
    found, total = [], counts.names.sum(0).astype(int)
    for at, kind in enumerate(counts.kinds):
        own = counts.names[:, at]
        scores = _metrics(METRICS[:3], _of_kind(own), len(own), resamples, seed)
        precision, recall, f1 = (scores[name] for name in METRICS[:3])
        found.append(KindScores(kind, precision, recall, f1, int(total[at, 2]), int(total[at, 1])))
    return found


def outcomes_of(
    sentences: Sequence[Sentence], predicted: Sequence[Sequence[str]], kinds: list[str]
) -> list[KindOutcomes]:
    """The outcome of each true name, and the predicted names that overlap no true one."""
    became, invented = {kind: Counter(dict.fromkeys(OUTCOMES, 0)) for kind in kinds}, Counter[str]()
    for own, guess in zip(sentences, predicted, strict=True):
        true, found = spans_of(own.tags), spans_of(guess)
        for span in true:
            became[span.kind][_outcome(span, found)] += 1
        invented.update(span.kind for span in found if not any(span.overlaps(other) for other in true))
    return [KindOutcomes(kind, dict(became[kind]), invented[kind]) for kind in kinds]


def _outcome(span: Span, found: list[Span]) -> str:
    if span in found:
        return RIGHT
    touching = [other for other in found if other.overlaps(span)]
    if not touching:
        return MISSED
    if any((other.begin, other.end) == (span.begin, span.end) for other in touching):
        return KIND
    return BOUNDS if any(other.kind == span.kind for other in touching) else BOTH


def recall_by_acquaintance(
    who: str,
    train: Sequence[Sentence],
    sentences: Sequence[Sentence],
    predicted: Sequence[Sequence[str]],
    resamples: int,
    seed: int,
) -> Known:
    """Recall on names that are also a name in train, of any kind, and on all others."""
    known = {name for own in train for name in _names(own)}
    counts = np.zeros((2, len(sentences), 2))  # (right, true) names, for seen and unseen ones
    for row, (own, guess) in enumerate(zip(sentences, predicted, strict=True)):
        found = set(spans_of(guess))
        for span, name in zip(spans_of(own.tags), _names(own), strict=True):
            counts[int(name not in known), row] += int(span in found), 1
    seen, unseen = (_recall(own, resamples, seed) for own in counts)
    return Known(who, seen, unseen)


def word_confusion(
    sentences: Sequence[Sentence], predicted: Sequence[Sequence[str]], kinds: list[str]
) -> tuple[list[str], list[list[int]]]:
    """The kinds and "no entity", and the number of words by true and predicted kind."""
    names = [*kinds, "no entity"]
    matrix = np.zeros((len(names), len(names)), int)
    for own, guess in zip(sentences, predicted, strict=True):
        for a, b in zip(own.tags, guess, strict=True):
            at = (names.index(tag[2:]) if tag != OUTSIDE else len(kinds) for tag in (a, b))
            matrix[tuple(at)] += 1
    return names, matrix.tolist()


@dataclass(frozen=True)
class System:
    """The tags of the test sentences that a model or a baseline predicts."""

    name: str
    tags: list[list[str]]
    note: str = ""
    seconds: float = 0.0


def score_tagger(
    *,
    train: Sequence[Sentence],
    val: Sequence[Sentence],
    test: Sequence[Sentence],
    tags: list[str],
    predicted: dict[str, list[list[str]]],
    nats: tuple[np.ndarray, np.ndarray],
    baselines: Sequence[System],
    clean: np.ndarray,
    headline: str,
    resamples: int,
    seed: int,
    cut_words: int,
    start: Start,
) -> TagEvaluation:
    """The evaluation; its seconds are filled in later.

    predicted: the model's tags of val and test. nats: the cross-entropy of each test sentence, and its number of words,
    (n,) each. clean: bool (n,), test sentences that are in no other split. headline: one of METRICS.
    """
    counts = entity_counts(test, predicted["test"], tags)
    metrics = measure(counts, resamples, seed) | {"log_loss": _loss(*nats, resamples, seed)}
    compared = []
    for own in baselines:
        other = entity_counts(test, own.tags, tags)
        differences = paired_differences(_difference(counts, other), len(test), resamples, seed)
        compared.append(
            TagBaseline(
                own.name,
                measure(other, resamples, seed),
                dict(zip(METRICS, differences, strict=True)),
                own.note,
                own.seconds,
            )
        )
    word_kinds, confusion = word_confusion(test, predicted["test"], counts.kinds)
    wrong = [
        WrongSentence(own.row, own.words, own.tags, guess)
        for own, guess in zip(test, predicted["test"], strict=True)
        if own.tags != guess
    ]
    clean_metric = metrics[headline]
    if not clean.all():
        kept = EntityCounts(counts.kinds, counts.names[clean], counts.words[clean], counts.exact[clean])
        clean_metric = (
            measure(kept, resamples, seed)[headline]
            if clean.any()
            else undefined(0, "every sentence occurs in another split")
        )
    return TagEvaluation(
        schema_version=1,
        task="tag",
        **vars(start),
        seconds=0.0,
        headline=Headline(**vars(metrics[headline]), metric=headline, split="test"),
        metrics=metrics,
        validation=measure(entity_counts(val, predicted["val"], tags), resamples, seed),
        baselines=compared,
        tags=tags,
        kinds=per_kind(counts, resamples, seed),
        outcomes=outcomes_of(test, predicted["test"], counts.kinds),
        known=[
            recall_by_acquaintance(who, train, test, own, resamples, seed)
            for who, own in (("this model", predicted["test"]), *((own.name, own.tags) for own in baselines))
        ],
        word_kinds=word_kinds,
        word_confusion=confusion,
        wrong=wrong[:: -(-len(wrong) // SHOWN) or 1],
        wrong_sentences=len(wrong),
        overlapping=int((~clean).sum()),
        clean=clean_metric,
        cut_words=cut_words,
    )


def verdict(evaluation: TagEvaluation) -> str:
    """A few sentences that claim no more than the numbers in eval.json support."""
    headline = evaluation.headline
    metric = headline.metric
    what = {"accuracy": "Token accuracy", "f1": "F1 of entities", "f1_macro": "Macro F1 of entities"}.get(
        metric, METRIC_NAMES[metric]
    )
    sentences = [f"{what} on held-out sentences: {metric_text(headline, metric)}."]
    advice = ": use the baseline, add training data, or start from a larger model"
    for own in evaluation.baselines:
        difference = own.differences[metric]
        size, p = points(metric, difference.known_value()) or 0.0, difference.p()
        name = own.name[:1].upper() + own.name[1:]
        shown = f"{name} on the same sentences: {metric_value(metric, own.metrics[metric].value)}"
        if p >= 0.05:
            sentences.append(f"{shown}; the difference of {abs(size):.1f} points is within noise ({p_text(p)}).")
        elif size > 0:
            sentences.append(f"{shown}; the model is better by {size:.1f} points ({p_text(p)}).")
        else:
            sentences.append(f"{shown}; the baseline is better by {-size:.1f} points ({p_text(p)}){advice}.")
            advice = ""  # once is enough
    unseen = evaluation.known[0].unseen
    if unseen.value is not None:
        sentences.append(
            f"Recall on entities not seen in training: {metric_value('recall', unseen.value)} ({unseen.n:,} entities)."
        )
    if evaluation.overlapping:
        sentences.append(
            f"{evaluation.overlapping:,} of the {headline.n:,} test sentences also occur in the training or validation set; "
            f"without them: {metric_text(evaluation.clean, metric)}."
        )
    return " ".join(sentences)


def _names(sentence: Sentence) -> list[str]:
    """The names of a sentence as text, in the order of ``spans_of``."""
    return [" ".join(sentence.words[span.begin : span.end]) for span in spans_of(sentence.tags)]


def _precision_recall_f1(names: np.ndarray) -> np.ndarray:
    """(..., 3) of right, predicted and true names (..., 3)."""
    right, found, true = (names[..., at] for at in range(3))
    return np.stack([_ratio(right, found), _ratio(right, true), _ratio(2 * right, found + true)], axis=-1)


def _of_kind(names: np.ndarray) -> Statistic:
    """Precision, recall and F1 of a kind's counts (n, 3)."""
    return lambda drawn: _precision_recall_f1(drawn @ names)


def _difference(counts: EntityCounts, other: EntityCounts) -> Statistic:
    """The difference in each of METRICS, first minus second."""
    own, theirs = statistics(counts), statistics(other)
    return lambda drawn: own(drawn) - theirs(drawn)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The quotient, 0 if the denominator is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)


def _metrics(
    names: Sequence[str], statistic: Callable[[np.ndarray], np.ndarray], n: int, resamples: int, seed: int
) -> dict[str, Metric]:
    values = statistic(np.ones((1, n)))[0]
    low, high = bootstrap(statistic, n, resamples, seed)
    return {
        name: Metric(float(value), float(a), float(b), n)
        for name, value, a, b in zip(names, values, low, high, strict=True)
    }


def _recall(counts: np.ndarray, resamples: int, seed: int) -> Metric:
    """The share of right names, from counts (n, 2) per sentence; its n is the number of names."""
    right, true = counts.sum(0)
    if not true:
        return undefined(0, "no such entity")

    def share(drawn: np.ndarray) -> np.ndarray:
        sums = drawn @ counts
        with np.errstate(invalid="ignore"):
            return sums[:, 0] / sums[:, 1]  # NaN if a resample has no such name

    low, high = bootstrap(share, len(counts), resamples, seed)
    return Metric(float(right / true), low, high, int(true))


def _loss(nats: np.ndarray, words: np.ndarray, resamples: int, seed: int) -> Metric:
    """The mean cross-entropy per word."""
    low, high = bootstrap(lambda drawn: drawn @ nats / (drawn @ words), len(nats), resamples, seed)
    return Metric(float(nats.sum() / words.sum()), low, high, len(nats))
