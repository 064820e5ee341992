"""Attention over tokens: every token a label to be read, every weight in its place."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from finetune.report.attention import draw_attention


@pytest.mark.parametrize("size", [1, 5, 40, 200])
def test_rows_are_queries_and_columns_are_keys(size):
    weights = np.tril(np.random.default_rng(1).random((size, size)))[:, : max(1, size - 1)]
    queries, keys = [f"q{i}" for i in range(size)], [f"k{i}" for i in range(max(1, size - 1))]
    axes = Figure().subplots()
    image = draw_attention(axes, weights.tolist(), queries, keys)
    np.testing.assert_array_equal(np.ma.filled(image.get_array(), 0), weights)
    assert np.array_equal(np.ma.getmaskarray(image.get_array()), weights == 0)
    shown = {int(place): text.get_text() for place, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    assert all(queries[place] == text for place, text in shown.items()) and min(size, 60) <= len(shown) <= 72
    assert [text.get_text() for text in axes.get_xticklabels()][0] == "k0"
    assert not any(text.get_parse_math() for text in (*axes.get_xticklabels(), *axes.get_yticklabels()))
