"""The figures of a language model are its formulas, their intervals a bootstrap by hand."""

import bz2
import math

import numpy as np
import pytest

from finetune.evaluation.language import compressors, language_metrics

NATS, TOKENS, SIZES = np.array([30.0, 9.0, 44.0, 2.0]), np.array([10, 4, 20, 1]), np.array([40, 11, 90, 5])


def by_hand(rows):
    nats, tokens, sizes = NATS[rows].sum(), TOKENS[rows].sum(), SIZES[rows].sum()
    return {
        "bits_per_byte": nats / sizes / math.log(2),
        "perplexity": math.exp(nats / tokens),
        "log_loss": nats / tokens,
    }


def test_figures_are_sums_over_blocks_with_intervals_over_blocks():
    found = language_metrics(NATS, TOKENS, SIZES, 50)
    generator = np.random.default_rng(0)
    drawn = [by_hand(generator.integers(4, size=4)) for _ in range(50)]
    for name, value in by_hand(np.arange(4)).items():
        low, high = np.percentile([one[name] for one in drawn], [2.5, 97.5])
        assert (found[name].value, found[name].low, found[name].high) == pytest.approx((value, low, high))
        assert found[name].n == 4


def test_a_perplexity_stays_finite():
    assert language_metrics([1e6], [1], [1], 10)["perplexity"].value == pytest.approx(math.exp(50))


def test_compressors_are_measured_in_bits_per_byte():
    text = b"the tide turns at noon " * 9
    found = {entry.name: entry.bits_per_byte for entry in compressors(text)}
    assert found["bz2 -9"] == pytest.approx(8 * len(bz2.compress(text)) / len(text)) and 0 < found["xz -9e"] < 8
    assert compressors(b"") == []
