"""Which explanations are findings."""

from finetune.evaluation.explanations import Explanations, NearDuplicates
from finetune.evaluation.results import Metric
from finetune.evaluation.robustness import Flips
from finetune.evaluation.shortcut import Shortcut
from finetune.evaluation.slices import Slice, Slices
from finetune.tasks.classify.sections.findings import evaluation_findings


def found(rule=0.7, p_slice=0.2, flipped=0.05):
    model = Metric(0.95, 0.92, 0.97, 200)
    return Explanations(
        slices=Slices([Slice("a digit", Metric(0.6, 0.5, 0.7, 80), 0.97, p_slice)], 0),
        shortcut=Shortcut(
            rule="contains 'win'",
            holds="spam",
            otherwise="ham",
            accuracy=Metric(rule, rule - 0.05, rule + 0.05, 200),
            model=model,
            constant=0.5,
            p_value=0.001,
            where_wrong=None,
        ),
        flips=[Flips("lower case", Metric(flipped, flipped - 0.04, flipped + 0.04, 100))],
        flip_rows=100,
        errors=[],
        compared=0,
        near=NearDuplicates(0, 200, {}),
    )


def test_only_what_somebody_should_act_on_is_a_finding():
    assert evaluation_findings(found()) == []
    codes = [finding.code for finding in evaluation_findings(found(0.92, 0.01, 0.2))]
    assert codes == ["FT060", "FT061", "FT062"]
    [finding] = evaluation_findings(found(p_slice=0.01))
    assert "accuracy 60.0 % on the rows of the slice 'a digit', 97.0 % on the others" in finding.what
