"""The findings of a classifier's evaluation, with the codes of tables/codes.py."""

from finetune.evaluation.explanations import Explanations
from finetune.report.metric_text import metric_interval, metric_value
from finetune.tables.findings import Finding

FRAGILE = 0.1  # a finding if the lower end of the interval of the share of flipped decisions is at least this


def evaluation_findings(found: Explanations) -> list[Finding]:
    """The findings in the explanations that call for action."""
    findings = []
    if found.shortcut and found.shortcut.suffices:
        rule, model = found.shortcut.accuracy.value, found.shortcut.model.value
        findings.append(
            Finding(
                "shortcut",
                "warning",
                f"a single rule (see Shortcut below) classifies {metric_value('accuracy', rule)} of the test rows correctly, the "
                f"model {metric_value('accuracy', model)}",
                "Check that the rule will hold for new texts; if not, remove the clue or add rows without it.",
            )
        )
    for part in found.slices.shown:
        if part.worse:
            findings.append(
                Finding(
                    "weak_slice",
                    "warning",
                    f"accuracy {metric_value('accuracy', part.score.value)} on the rows of the slice {part.name!r}, "
                    f"{metric_value('accuracy', part.rest)} on the others",
                    "Add training rows like these, and check their labels.",
                    part.score.n,
                )
            )
    for entry in found.flips:
        if entry.share.value is not None and (entry.share.low or 0.0) >= FRAGILE:
            findings.append(
                Finding(
                    "fragile_decisions",
                    "warning",
                    f"{metric_value('accuracy', entry.share.value)} of the decisions "
                    f"({metric_interval('accuracy', entry.share)}) flip under a small change: {entry.change}",
                    "Add training rows with this change, or apply the change to every text, in training and in prediction.",
                    entry.share.n,
                )
            )
    return findings
