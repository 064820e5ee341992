"""The section on slices, shared by all tasks that measure them."""

from finetune.evaluation.slices import LEAST_ROWS, Slices
from finetune.report.blocks import Section, Table, Text, metric_cell, metric_name
from finetune.report.metric_text import metric_value, p_text


def slices_section(found: Slices) -> Section:
    """The score of each slice and of the other rows, and the slices on which the model is worse by more than noise."""
    name = metric_name(found.metric)
    rows = [
        [
            part.name,
            f"{part.score.n:,}",
            metric_cell(found.metric, part.score),
            metric_value(found.metric, part.rest),
            p_text(part.p_value),
        ]
        for part in found.shown
    ]
    worse = [part.name for part in found.shown if part.worse]
    said = (
        f"The model is significantly worse on these slices (subsets of the test rows) than on the other rows: {'; '.join(worse)}."
        if worse
        else "On no slice (subset of the test rows) is the model significantly worse than on the other rows."
    )
    test = "Fisher's exact test of errors in the slice and outside" if found.share else "Welch's test of the two means"
    kind = "Wilson" if found.share else "Student"
    note = (
        f"p: {test}, corrected for the number of slices by Holm's method; the intervals hold for all slices together ({kind}, "
        f"Bonferroni's level). Slices with fewer than {LEAST_ROWS} rows inside or outside are not shown (here: {found.hidden})."
    )
    table = Table(
        f"{name} by slice, largest gap first",
        ["Slice", "Rows", name, f"{name} on\nthe other rows", "p"],
        rows,
        frozenset({1, 2, 3, 4}),
    )
    return Section("slices", "Slices", [Text(said), *([table] if rows else []), Text(note, small=True)])
