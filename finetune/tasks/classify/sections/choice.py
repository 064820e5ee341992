"""The section of a classifier's page on ``evaluate.choose = best``."""

from finetune.report.blocks import Section, Table, Text, metric_cell, metric_name
from finetune.report.metric_text import in_sentence, metric_value
from finetune.tasks.classify.score import CANDIDATES, ClassifierEvaluation, subject


def choice_section(evaluation: ClassifierEvaluation) -> list[Section]:
    """Each candidate's validation score, and the model's headline; none without a choice."""
    choice = evaluation.choice
    if choice is None:
        return []
    metric = choice.metric
    model = (evaluation.model or evaluation).metrics[metric]
    table = Table(
        f"On the {choice.rows:,} validation rows",
        ["", metric_name(metric), "Log loss"],
        [
            [CANDIDATES[name], metric_value(metric, own.metric), metric_value("log_loss", own.log_loss)]
            for name, own in choice.validation.items()
        ],
        frozenset({1, 2}),
        strong=frozenset({list(choice.validation).index(choice.winner)}),
    )
    shown = metric_cell(metric, model).replace("\n", " ")
    said = (
        f"The headline metric is that of {subject(evaluation)}, which the bundle contains. It was chosen on the validation "
        f"rows, by {in_sentence(metric_name(metric))} and then by log loss; the test rows played no part. The model "
        f"alone on the test rows: {shown}. The model's checkpoint and temperature were also chosen on the "
        "validation rows, which favours it slightly; "
        "with few rows the choice is close to chance."
    )
    if evaluation.model is not None:
        said += " The error analysis further below is of the model."
    return [Section("choice", "What the bundle contains", [Text(said), table])]
