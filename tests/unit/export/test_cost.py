"""What rounding costs, in words that its few rows allow."""

import numpy as np
from scipy.stats import binomtest

from finetune.export.cost import cost_in_accuracy

TARGETS = np.arange(197) % 3


def test_where_nothing_turns_right_or_wrong_the_sentence_says_what_so_few_rows_leave_open():
    before = np.where(np.arange(197) < 20, (TARGETS + 1) % 3, TARGETS)
    after = before.copy()
    after[:3] = (TARGETS[:3] + 2) % 3  # another label, as wrong as before
    most = binomtest(0, 197, alternative="less").proportion_ci(0.95, method="exact").high
    for own in (before, after):
        said = cost_in_accuracy(TARGETS, before, own).text()
        assert said.startswith("accuracy 0.8985 as in fp32: none of 197 held-out rows changed between right and wrong")
        assert said.endswith(f"with 95 % confidence, at most {most:.1%} of all rows do") and "1.5%" in said
        assert "interval" not in said


def test_a_change_has_its_interval():
    after = TARGETS.copy()
    after[:2] = (TARGETS[:2] + 1) % 3
    said = cost_in_accuracy(TARGETS, TARGETS, after).text()
    assert said.startswith("accuracy 0.9898 where fp32 has 1.0000, a change of -0.0102 (95 % interval -0.0")
