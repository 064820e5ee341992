"""The standalone predict.py shares no code with the package, so what it repeats is held equal here."""

import pytest

from finetune.export import standalone
from finetune.tables import white_space


@pytest.mark.parametrize(
    "text",
    ["  a \t b\n", "a\u00a0b\u2028c", "zero\u200bwidth\ufeff", "\u202eright\u2066 to left", "caf\u00e9 \u0301", ""],
)
def test_white_space_is_folded_as_in_the_package(text):
    assert standalone.fold_white_space(text) == white_space.fold_white_space(text)
    assert standalone.INVISIBLE.pattern == white_space.INVISIBLE.pattern
