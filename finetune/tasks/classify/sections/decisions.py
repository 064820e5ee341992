"""The report's section on decisions: the rule, its results, its promise, and its results in other cases."""

from finetune.evaluation.aims import Decision, Promise, split_aim
from finetune.evaluation.results import Metric
from finetune.report import plots
from finetune.report.blocks import Figure, Section, Table, Text, metric_cell, percent
from finetune.report.metric_text import metric_value

_NAMES = {
    "coverage": "Rows decided",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "false_positive_rate": "False positive rate",
    "cost": "Mean cost",
}
_GIVEN = {
    "accuracy": "of the decisions are correct",
    "precision": "of the rows predicted as {positive} are {positive}",
    "false_positive_rate": "of the other rows are predicted as {positive}",
    "risk": "of the decided rows are wrong",
}


def decision_section(decision: Decision, positive: str | None, labels: list[str]) -> Section:
    """The decision rule, its results on test rows, and its promise."""
    shown = plots.cut(positive or "")
    names = [name for name in _NAMES if name in decision.test]
    if decision.rule.abstain_below is None:
        names.remove("coverage")
    table = Table(
        "Results of these decisions, with 95 % intervals",
        ["", *(_NAMES[name] for name in names)],
        [
            [who, *(_cell(name, found[name]) for name in names)]
            for who, found in (("Test", decision.test), ("Validation", decision.validation))
        ],
        frozenset(range(1, len(names) + 1)),
        strong=frozenset({0}),
    )
    blocks: list[Figure | Table | Text] = [
        Text(promise_text(decision.promise, shown)),
        table,
        Text(
            "Shares have Wilson intervals here; under All metrics, those of precision and recall are from the bootstrap.",
            small=True,
        ),
    ]
    if decision.base_rates:
        blocks += _base_rates(decision, shown)
    if len(decision.coverage) > 1:
        blocks.append(_coverage(decision))
    return Section("decision", "Decisions", blocks, introduction=rule_text(decision, shown, labels))


def rule_text(decision: Decision, positive: str, labels: list[str]) -> str:
    """The rule in words, and whether validation rows reach the aim."""
    rule = decision.rule
    word, wanted = split_aim(rule.aim)
    share = percent(wanted or 0.0, 1)
    aim = {
        "half": "predict the most probable label",
        "max-f1": f"the highest F1 of {positive}",
        "cost": "the least cost",
        "recall-at-fpr": f"the highest recall of {positive} with a false positive rate of at most {share}",
        "precision": f"the highest recall of {positive} with a precision of at least {share}",
        "abstain": f"an error rate of at most {share} on the rows that are decided",
    }[word]
    said = f"Aim (evaluate.aim = {rule.aim}): {aim}. "
    if rule.costs is not None:
        said += "The label with the least expected cost is predicted. "
    elif rule.threshold is not None:
        said += f"A row is predicted as {positive} if that label's probability is at least {rule.threshold:.4g}. "
    elif word != "half":
        said += "The most probable label is predicted. "
    if rule.abstain_below is not None:
        said += f"If the predicted label's probability is below {rule.abstain_below:.4g}, the decision is to abstain. "
    if word == "cost":
        pairs = [
            f"{plots.cut(true)} predicted as {plots.cut(guess)} costs {_cost(decision, i, j, labels)}"
            for i, true in enumerate(labels)
            for j, guess in enumerate(labels)
            if i != j and len(labels) == 2
        ]
        return said + "".join(f"{pair}. " for pair in pairs).strip()
    if wanted is None:
        return said.strip()
    if not rule.reached:
        return said + "No rule reaches the aim on the validation rows; this one comes closest."
    if not rule.sure:
        return said + "The validation rows reach the aim, but are too few to be sure of it with 90 % confidence."
    return said + "On the validation rows the aim holds with a margin for their number (bound at 90 % confidence)."


def _cost(decision: Decision, true: int, guess: int, labels: list[str]) -> str:
    """A cost relative to the other one, from the threshold."""
    threshold = decision.rule.threshold or 0.5
    return f"{(1 - threshold if true else threshold) / min(threshold, 1 - threshold):.3g}"


def promise_text(found: Promise, positive: str) -> str:
    """The promise at 90 % confidence, or why there is none."""
    if found.bound is None or found.value is None:
        return "Nothing can be promised: there are no test rows to measure it on."
    if found.of == "cost":
        return (
            f"With 90 % confidence, the mean cost of new rows like these is at most {found.bound:.3g}; on the "
            f"{found.n:,} test rows it is {found.value:.3g} (Hoeffding's bound)."
        )
    side = "at least" if found.at_least else "at most"
    given = _GIVEN[found.of].format(positive=positive)
    said = (
        f"With 90 % confidence, {side} {percent(found.bound, 1)} {given} among new rows like these. This is an exact "
        f"one-sided binomial bound from the {found.n:,} test rows whose text is in no other split; on them it is "
        f"{percent(found.value, 1)}."
    )
    if found.aim is None:
        return said
    aim = f"The aim of {side} {percent(found.aim, 1)}"
    if found.holds:
        return f"{aim} can be promised. {said}"
    if found.needed is not None and found.n < found.needed:
        return (
            f"{aim} cannot be promised: {found.n:,} test rows are too few, as even without an error {found.needed:,} are "
            f"needed. {said}"
        )
    return f"{aim} cannot be promised. {said}"


def _cell(name: str, metric: Metric) -> str:
    if name == "false_positive_rate" or name == "coverage":
        name = "accuracy"  # also in percent
    return metric_cell(name, metric)


def _base_rates(decision: Decision, positive: str) -> list[Table | Text]:
    table = Table(
        f"Precision at other shares of {positive}",
        [f"Share of {positive}", "Precision"],
        [[percent(row.rate, 1), metric_cell("precision", row.precision)] for row in decision.base_rates],
        frozenset({1}),
    )
    note = (
        f"Precision depends on how frequent {positive} is where the model is used. These figures follow from the recall and "
        "the false positive rate on the test rows by Bayes' theorem; the intervals come from that of the ratio of the two."
    )
    return [table, Text(note, small=True)]


def _coverage(decision: Decision) -> Figure:
    rows = [
        [
            percent(point.coverage, 1),
            f"{point.accuracy.n:,}",
            f"{point.confidence:.4f}",
            metric_cell("accuracy", point.accuracy),
        ]
        for point in decision.coverage
    ]
    last = decision.coverage[-1].accuracy.value
    return Figure(
        plots.coverage_picture(decision.coverage),
        "Coverage and accuracy",
        f"Accuracy of the most confident share of the test rows; of all rows {metric_value('accuracy', last)}.",
        "Accuracy if the model decides only the rows that it is most confident about and leaves the rest to a person. With "
        "evaluate.aim = abstain:X, the share decided is chosen on the validation set so that the error rate is at most X. The "
        "band is the 95 % interval.",
        Table(
            "Accuracy of the most confident rows",
            ["Share decided", "Rows", "Lowest probability", "Accuracy"],
            rows,
            frozenset({1, 2, 3}),
        ),
    )
