"""The evaluation of a classifier: the content of eval.json and the verdict in words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from finetune.config import nearest
from finetune.errors import RecipeError, counted, listed
from finetune.evaluation.aims import ABSTAIN, Costs, Decision, choose_rule, measure_decision
from finetune.evaluation.baseline import majority, tfidf_logistic
from finetune.evaluation.calibration import ReliabilityBin, fit_temperature, reliability_bins, softmax
from finetune.evaluation.choice import AVERAGE, MODEL, Choice
from finetune.evaluation.choice import TFIDF as CHOSEN_TFIDF
from finetune.evaluation.intervals import mcnemar
from finetune.evaluation.leakage import OverlapCounts, clean_rows, overlap
from finetune.evaluation.metrics import ClassScores, classification_metrics, paired_difference, per_class
from finetune.evaluation.over_seeds import Seeds
from finetune.evaluation.results import Difference, Evaluation, Headline, Metric, Start
from finetune.evaluation.tfidf import TfidfModel
from finetune.recipe import Recipe
from finetune.records import Record
from finetune.report.metric_text import METRIC_NAMES, SHARES, in_sentence, metric_text, metric_value, p_text
from finetune.tasks.classify.long_texts import LongTexts

TFIDF = "TF-IDF + logistic regression"
MAJORITY = "majority class"
MOST_FREQUENT = "most frequent labels"  # if a row may have many labels
CANDIDATES = {MODEL: "the model", CHOSEN_TFIDF: TFIDF, AVERAGE: "the average of the model and TF-IDF"}
_CURVE_POINTS = 200
_MACRO_CLASSES = 10  # with more classes a mean curve is misleading


@dataclass(frozen=True)
class CleanMetrics(Record):
    """The metrics on the test rows whose text occurs in no other split."""

    metrics: dict[str, Metric]


@dataclass(frozen=True)
class CleanRows(CleanMetrics):
    """These metrics with the number of rows."""

    n: int


@dataclass(frozen=True, kw_only=True)
class Baseline(Record):
    """A baseline, scored on the same rows with the same decision rule."""

    name: str
    metrics: dict[str, Metric]
    p_value: float  # of `test`: whether model and baseline are correct equally often
    test: str
    difference: Difference  # in the headline metric, model minus baseline
    threshold: float | None
    note: str
    seconds: float
    clean: CleanMetrics | None = None  # None if all test rows are clean


@dataclass(frozen=True)
class Curve(Record):
    """Points of the ROC (false, true positive rate) and precision-recall (recall, precision) curves."""

    of: str  # the classes of the curves
    roc: list[tuple[float, float]]
    pr: list[tuple[float, float]]


@dataclass(frozen=True)
class Curves(Record):
    """The model's curves and a baseline's; None if there is nothing to draw."""

    model: Curve | None
    baseline: Curve | None
    baseline_name: str


@dataclass(frozen=True, kw_only=True)
class LabelledEvaluation(Evaluation):
    """The content of the eval.json of labelled rows, with one label per row or many. metrics: on the test rows."""

    validation: dict[str, Metric]
    baselines: list[Baseline]
    labels: list[str]
    clean: CleanRows
    overlap: dict[str, OverlapCounts]
    positive: str | None  # None unless there are two labels and each row has one of them
    threshold: float | None  # on the probability of that label
    thresholds: list[float] | None = None  # for each label, if a row may have many
    aim: str
    temperature: float
    long_texts: LongTexts | None = None  # of the test rows
    seeds: Seeds | None = None  # of several trainings; all other fields are those of the first


@dataclass(frozen=True, kw_only=True)
class ClassifierEvaluation(LabelledEvaluation):
    """The content of a classifier's eval.json."""

    confusion_matrix: list[list[int]]  # rows: true labels, columns: predicted labels
    per_class: list[ClassScores]
    reliability: list[ReliabilityBin]
    curves: Curves
    decision: Decision
    choice: Choice | None = None  # None without evaluate.choose = best
    model: "ClassifierEvaluation | None" = None  # the model's own, if another predictor won


L = TypeVar("L", bound=LabelledEvaluation)


@dataclass(frozen=True)
class Rival:
    """Another classifier of the same rows: its probabilities (n, K) on val and test."""

    name: str
    val: np.ndarray
    test: np.ndarray
    note: str
    seconds: float


@dataclass(frozen=True)
class Scored(Generic[L]):
    """An evaluation, with its seconds still to be filled in, and the predictions for the test rows."""

    evaluation: L
    predicted: list[str]  # (n,) labels as text
    confidence: np.ndarray  # (n,) probability of the prediction
    probabilities: np.ndarray  # (n, K)
    abstain_below: float | None = None  # abstain if the confidence is lower
    tfidf: TfidfModel | None = None  # if the winner uses it


def score_classifier(
    *,
    labels: list[str],
    positive: int | None,
    aim: str,
    headline: str,
    resamples: int,
    seed: int,
    texts: dict[str, list[str]],
    targets: dict[str, np.ndarray],
    logits: dict[str, np.ndarray],
    normalise: Callable[[str], str],
    start: Start,
    costs: Costs | None = None,
    temperature: float | None = None,
    rivals: list[Rival] | None = None,
) -> tuple[ClassifierEvaluation, np.ndarray, np.ndarray]:
    """The evaluation (its seconds are filled in later), and the test rows' probabilities (n, k) and predicted classes (n,).

    positive: index of the positive one of two labels, None for more. aim: as in evaluation/aims.py, and its costs.
    headline: accuracy, f1 or f1_macro. temperature: None to fit it. rivals: the baselines besides the majority; if None,
    TF-IDF, fitted here. texts, targets (class indices): with the keys train, val and test. logits (n, k): with the
    keys val and test. Temperature and decision rule are chosen on val alone.
    Raises RecipeError if the headline is not defined for this number of labels.
    """
    k = len(labels)
    targets = {split: np.asarray(y, dtype=int) for split, y in targets.items()}
    y_val, y_test = targets["val"], targets["test"]
    if temperature is None:
        temperature = fit_temperature(logits["val"], y_val)
    p_val, p_test = (softmax(logits[split], temperature) for split in ("val", "test"))
    rule = choose_rule(aim, costs, y_val, p_val, positive)
    predicted = rule.predict(p_test, positive)

    def measure(y: np.ndarray, decisions: np.ndarray, probabilities: np.ndarray) -> dict[str, Metric]:
        return classification_metrics(y, decisions, probabilities, labels, positive, resamples, seed)

    metrics = measure(y_test, predicted, p_test)
    if headline not in metrics:
        raise RecipeError(
            f"the headline metric {headline!r} is not defined for {k} labels",
            known=nearest(headline, metrics) or ", ".join(metrics),
            do="Set evaluate.metric to accuracy or f1_macro.",
        )
    counts = overlap(texts, normalise)
    clean = clean_rows(texts["train"] + texts["val"], texts["test"], normalise)

    def against(name: str, p_val_other: np.ndarray, p_other: np.ndarray, note: str, seconds: float) -> Baseline:
        own_aim = "half" if name == MAJORITY else aim  # another threshold would turn it into the minority class
        own_rule = choose_rule(own_aim, costs, y_val, p_val_other, positive)
        decisions = own_rule.predict(p_other, positive)
        return Baseline(
            name=name,
            metrics=measure(y_test, decisions, p_other),
            test="exact McNemar",
            p_value=mcnemar(predicted == y_test, decisions == y_test),
            difference=paired_difference(headline, y_test, predicted, decisions, k, positive, resamples, seed),
            threshold=own_rule.threshold,
            note=note,
            seconds=seconds,
            clean=None if clean.all() else CleanMetrics(measure(y_test[clean], decisions[clean], p_other[clean])),
        )

    prior = majority(targets["train"], k, len(y_val) + len(y_test))
    if rivals is None:
        p_tfidf, note, seconds = tfidf_logistic(
            texts["train"], targets["train"], texts["val"], y_val, texts["val"] + texts["test"], k
        )
        rivals = [Rival(TFIDF, p_tfidf[: len(y_val)], p_tfidf[len(y_val) :], note, seconds)]
    note = "always predicts the most frequent label; its probabilities are the label frequencies in the training set"
    baselines = [against(*vars(own).values()) for own in rivals]
    baselines.append(against(MAJORITY, prior[: len(y_val)], prior[len(y_val) :], note, 0.0))
    confusion = np.zeros((k, k), dtype=int)
    np.add.at(confusion, (y_test, predicted), 1)
    on_clean = metrics if clean.all() else measure(y_test[clean], predicted[clean], p_test[clean])
    evaluation = ClassifierEvaluation(
        schema_version=1,
        task="classify",
        method=start.method,
        weights=start.weights,
        seconds=0.0,
        headline=Headline(**vars(metrics[headline]), metric=headline, split="test"),
        metrics=metrics,
        validation=measure(y_val, rule.predict(p_val, positive), p_val),
        baselines=baselines,
        labels=labels,
        positive=labels[positive] if k == 2 and positive is not None else None,
        confusion_matrix=confusion.tolist(),
        per_class=per_class(y_test, predicted, labels),
        clean=CleanRows(on_clean, int(clean.sum())),
        overlap=counts,
        threshold=rule.threshold,
        aim=aim,
        temperature=temperature,
        reliability=reliability_bins(p_test, y_test) if len(y_test) else [],
        curves=Curves(curves(y_test, p_test, positive), curves(y_test, rivals[0].test, positive), rivals[0].name),
        decision=measure_decision(rule, costs, positive if k == 2 else None, y_val, p_val, y_test, p_test, clean),
    )
    return evaluation, p_test, predicted


def curves(y: np.ndarray, probabilities: np.ndarray, positive: int | None) -> Curve | None:
    """The curves of the positive one of two classes, or the mean of each class against the rest.

    None for more than ten classes, or if no class has both positive and negative rows.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    k = probabilities.shape[1]
    classes = [positive] if k == 2 else list(range(k))
    classes = [c for c in classes if 0 < (y == c).sum() < len(y)]
    if not classes or k > _MACRO_CLASSES:
        return None
    grid = np.linspace(0, 1, _CURVE_POINTS)
    roc, pr = [], []
    for c in classes:
        false_rate, true_rate, _ = roc_curve(y == c, probabilities[:, c])
        precision, recall, _ = precision_recall_curve(y == c, probabilities[:, c], drop_intermediate=True)
        if k == 2:
            return Curve("positive class", _thin(false_rate, true_rate), _thin(recall[::-1], precision[::-1]))
        roc.append(np.interp(grid, false_rate, true_rate))
        # recall falls from 1; take the highest precision at the grid's recall or above
        reached = np.searchsorted(-recall, 1e-12 - grid, side="right") - 1
        pr.append(np.maximum.accumulate(precision)[reached])
    start = np.vstack([[0.0, 0.0], np.column_stack([grid, np.mean(roc, axis=0)])])
    mean = np.column_stack([grid, np.mean(pr, axis=0)])
    return Curve(
        f"mean of {len(classes)} classes, each against the rest",
        *([(x, y) for x, y in points.round(6).tolist()] for points in (start, mean)),
    )


def _thin(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    """At most 200 points of a curve, evenly spaced along its length, including both ends."""
    keep = np.arange(len(x))
    if len(x) > _CURVE_POINTS:
        length = np.append(0, np.cumsum(np.hypot(np.diff(x), np.diff(y))))
        wanted = np.linspace(0, length[-1], _CURVE_POINTS)
        keep = np.unique(np.clip(np.searchsorted(length, wanted - 1e-12), 0, len(x) - 1))
        keep[0], keep[-1] = 0, len(x) - 1
    return [(round(float(x[i]), 6), round(float(y[i]), 6)) for i in keep]


def verdict(evaluation: LabelledEvaluation) -> str:
    """A few sentences that claim no more than the numbers in eval.json support."""
    headline, clean = evaluation.headline, evaluation.clean
    metric = headline.metric
    name = METRIC_NAMES[metric] + (f" of {evaluation.positive}" if metric == "f1" else "")
    sentences = [f"{name} {metric_text(headline, metric)}."]
    if headline.value is None:
        return sentences[0]
    choice = evaluation.choice if isinstance(evaluation, ClassifierEvaluation) else None
    if choice:
        sentences.append(
            f"This is {subject(evaluation)}, chosen on the {choice.rows:,} validation rows from the model, TF-IDF and "
            "their average; the bundle contains it."
        )
    who = "the model" if choice is None else "the chosen classifier"
    sentences += [
        sentence
        for entry in evaluation.baselines
        if (sentence := _comparison(entry, metric, entry.name in (MAJORITY, MOST_FREQUENT), who))
    ]
    overlapping = headline.n - clean.n
    if overlapping:
        verb = "occurs" if overlapping == 1 else "occur"
        sentences.append(
            f"{overlapping:,} of the {headline.n:,} test texts also {verb} in the training or "
            f"validation set; without them: {metric_text(clean.metrics[metric], metric)}."
        )
    if isinstance(evaluation, ClassifierEvaluation):
        sentences += never_predicted(evaluation.labels, np.array(evaluation.confusion_matrix))
    if metric in SHARES:
        _, low, high = headline.known()
        if high - low > 0.1:
            width = 100 * (high - low)
            sentences.append(
                f"The interval of {in_sentence(name)} is {width:.0f} points wide: the test set is too small for a more "
                "precise statement."
            )
    return " ".join(sentences)


def never_predicted(labels: list[str], confusion: np.ndarray) -> list[str]:
    """A sentence if test rows have labels that no row was given. confusion: (K, K), rows are true labels."""
    support = confusion.sum(axis=1)
    missed = np.flatnonzero((support > 0) & (confusion.sum(axis=0) == 0)).tolist()
    if not missed:
        return []
    rows = int(support[missed].sum())
    return [
        f"The model never predicted {listed([labels[c] for c in missed])} ({counted(rows, 'test row')}): try "
        "train.class_weights=balanced, more epochs, or more rows of such labels."
    ]


def subject(evaluation: LabelledEvaluation) -> str:
    """The subject of the metrics: the model, or the winner on validation."""
    choice = evaluation.choice if isinstance(evaluation, ClassifierEvaluation) else None
    return CANDIDATES[choice.winner] if choice else "this model"


def _comparison(entry: Baseline, metric: str, is_reference: bool, who: str) -> str:
    """The comparison with one baseline; "" for a reference that the model clearly beats. who: what is compared."""
    other, difference = entry.metrics[metric], entry.difference
    points, unsure = 100 * difference.known_value(), ""
    if metric == "accuracy":
        real, test = entry.p_value < 0.05, f"McNemar {p_text(entry.p_value)}"
        low, high = difference.low, difference.high
        if (
            not real and low is not None and high is not None and (low > 0 or high < 0)
        ):  # few rows, on which the exact test and the bootstrap disagree
            unsure = f"{test}, but 95 % interval of the difference {100 * low:+.1f} to {100 * high:+.1f} points"
    else:
        _, low, high = difference.known()
        real = low > 0 or high < 0
        test = f"95 % interval of the difference {100 * low:.1f} to {100 * high:.1f} points"
    if is_reference and real and points > 0:
        return ""
    name = entry.name[:1].upper() + entry.name[1:]
    shown = f"{name} on the same split: {metric_value(metric, other.value)}"
    size = f"{abs(points):.1f} points" if abs(points) >= 0.05 or points == 0 else "under 0.1 points"
    if points == 0:
        return f"{shown}; no difference ({test})."
    if unsure:
        return f"{shown}; it is unclear whether the difference of {size} is more than noise ({unsure})."
    if not real:
        return f"{shown}; the difference of {size} is within noise ({test})."
    if points > 0:
        return f"{shown}; {who} is better by {size} ({test})."
    if who != "the model":
        return f"{shown}; better than {who} by {size} ({test})."
    return f"{shown}; the baseline is better by {size} ({test}): use the baseline, or train differently."


def positive_label(recipe: Recipe, labels: list[str]) -> int | None:
    """The index of the positive one of two labels, by default the last in sorted order; None for more labels.

    Raises RecipeError if the section `evaluate` does not suit these labels, so that it is known before training.
    """
    wanted = recipe.evaluate
    check_aim(recipe, labels)
    of_one = (wanted.aim or "half").startswith(("max-f1", "recall-at-fpr", "precision"))
    asks = {
        "evaluate.metric=f1": wanted.metric == "f1",
        f"evaluate.aim={wanted.aim}": of_one,
        "evaluate.positive": wanted.positive is not None,
    }
    if len(labels) > 2:
        for setting in (name for name, asked in asks.items() if asked):
            raise RecipeError(
                f"{setting} needs exactly two labels",
                got=listed(labels),
                do="Remove it; with more labels use --set evaluate.metric=f1_macro or accuracy.",
            )
        return None
    if wanted.positive is None:
        return 1
    if wanted.positive not in labels:
        raise RecipeError(
            "evaluate.positive is not a label in this data",
            got=repr(wanted.positive),
            known=listed(labels),
            do="Set it to one of them, or remove it.",
        )
    return labels.index(wanted.positive)


def recipe_costs(recipe: Recipe) -> Costs | None:
    """The costs of a recipe."""
    return None if recipe.evaluate.costs is None else [list(row) for row in recipe.evaluate.costs]


def check_aim(recipe: Recipe, labels: list[str]) -> None:
    """Raise RecipeError if the costs do not suit the labels, or a label is called as an abstention."""
    aim, costs = recipe.evaluate.aim or "half", recipe.evaluate.costs
    if (aim == "cost") != (costs is not None):
        raise RecipeError(
            "evaluate.aim=cost and evaluate.costs need each other",
            got=f"aim {aim}, " + ("no costs" if costs is None else "costs"),
            do="For example: --set evaluate.aim=cost --set 'evaluate.costs=[[0, 10], [1, 0]]'",
        )
    if costs is not None and len(costs) != len(labels):
        raise RecipeError(
            "evaluate.costs has a row and a column for each label",
            got=f"{len(costs)} rows for {len(labels)} labels",
            known=listed(labels),
            do="Give them in this order.",
        )
    if aim.startswith(ABSTAIN) and ABSTAIN in labels:
        raise RecipeError(
            f"{ABSTAIN!r} is a label of this data, so it would look like a decision to abstain",
            got=f"evaluate.aim={aim}",
            do="Rename the label, or choose another aim.",
        )
