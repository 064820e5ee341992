"""The section of a classifier's page on labels that may be wrong."""

import shlex

from finetune.errors import listed, shorten
from finetune.evaluation.label_audit import LabelAudit, counts_text, planted_text
from finetune.report.blocks import Code, Section, Table, Text, seconds_text
from finetune.tables.codes import BY_NAME

CODE = BY_NAME["label_suspects"].code
_TEXT_LIMIT = 300  # characters of a text in the table


def suspects_section(audit: LabelAudit | None, name: str) -> list[Section]:
    """The most suspicious rows, how far the list can be trusted, and how to correct it; none without an audit."""
    if audit is None:
        return []
    blocks: list[Text | Table | Code] = [Text(f"{counts_text(audit)} [{CODE}] {planted_text(audit)}")]
    if audit.worst:
        blocks += [
            Table(
                "The most suspicious rows",
                ["Row", "Split", "Text", "Label", "Suggested", "Probability\nof the label"],
                [
                    [
                        str(own.row),
                        own.split,
                        shorten(own.text, _TEXT_LIMIT),
                        own.label,
                        own.suggested,
                        f"{own.quality:.3f}",
                    ]
                    for own in audit.worst
                ],
                frozenset({0, 5}),
                prose=frozenset({2}),
                headed=False,
                quotes=frozenset({2}),
            ),
            Text(
                "All of them are in label_suspects.csv in the run's directory. Copy it to fixes.csv. In the copy, correct the "
                "column label, or mark a row in the column drop to leave it out. This command trains again with the "
                "corrections and compares both runs on the same test rows, which are never changed:"
            ),
            Code(f"finetune labels {shlex.quote(f'runs/{name}')} --apply fixes.csv"),
        ]
    return [
        Section(
            "suspects", "Labels that may be wrong", [*blocks, Text(" ".join(notes(audit)), small=True)], training=True
        )
    ]


def notes(audit: LabelAudit) -> list[str]:
    """How the rows were found, and which labels could not be judged."""
    said = [
        f"Confident learning (Northcutt et al. 2021, with cleanlab) on {' and '.join(audit.features)}: logistic regressions "
        "give each row probabilities without having seen it or a copy of it. Test rows are scored by regressions fitted on "
        f"the other rows, and are never used for fitting. Time: {seconds_text(audit.seconds)}."
    ]
    if audit.capped:
        said.append(
            f"At most half of a label's rows are listed, which {listed(audit.capped)} reached: read these with care."
        )
    if audit.unjudged:
        said.append(f"Too few rows to judge: {listed(audit.unjudged)}.")
    return said
