"""The report's section on several trainings that differ in their seed."""

from finetune.evaluation.over_seeds import Seeds
from finetune.report.blocks import Section, Table, Text, metric_cell, metric_name
from finetune.report.metric_text import metric_value


def seeds_section(seeds: Seeds | None, chosen: bool = False) -> list[Section]:
    """The model's metrics over several seeds; an empty list for one training. chosen: by ``evaluate.choose = best``."""
    if seeds is None:
        return []
    rows = [
        [
            metric_name(name),
            metric_cell(name, own.mean),
            metric_value(name, own.spread),
            ", ".join(metric_value(name, value) for value in own.by_seed),
        ]
        for name, own in seeds.metrics.items()
    ]
    said = (
        f"{len(seeds.seeds)} trainings on the same rows with the seeds {', '.join(map(str, seeds.seeds))}. Everything else in "
        "this report, and the exported model, comes from the first. The interval shows how much the mean would vary with "
        "other seeds on these test rows (Student's t); the intervals of the other tables show how much it would vary with "
        "other test rows."
    )
    if chosen:
        said += " The metrics here are of the model alone, whatever the bundle contains."
    columns = ["Metric", "Mean", "Standard deviation", "Each seed"]
    return [
        Section(
            "seeds",
            "Over seeds",
            [Text(said), Table("Test rows", columns, rows, frozenset({1, 2}), prose=frozenset({3}))],
        )
    ]
