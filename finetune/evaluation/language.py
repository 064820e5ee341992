"""Language-model evaluation: loss, perplexity and bits per byte, with general compressors for comparison."""

import bz2
import lzma
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.intervals import bootstrap
from finetune.evaluation.results import Metric
from finetune.records import Record

NAMES = ("bits_per_byte", "perplexity", "log_loss")


@dataclass(frozen=True)
class CompressedSize(Record):
    """The result of a general compressor on a text."""

    name: str
    bits_per_byte: float


def language_metrics(nats: ArrayLike, tokens: ArrayLike, sizes: ArrayLike, resamples: int) -> dict[str, Metric]:
    """bits_per_byte, perplexity (per token) and log_loss (nats per token) with 95 % intervals over blocks.

    nats, tokens, sizes: for each block (n,) its summed cross entropy, its targets and their bytes of text.
    Bits per byte are comparable across tokenizers: total nats, including end-of-text ids, over the text's bytes.
    """
    nats, tokens, sizes = (np.asarray(values, dtype=np.float64) for values in (nats, tokens, sizes))

    def statistic(counts: np.ndarray) -> np.ndarray:  # counts (R, n) -> (R, 3)
        loss = counts @ nats / (counts @ tokens)
        return np.stack([counts @ nats / (counts @ sizes) / math.log(2), np.exp(np.minimum(loss, 50.0)), loss], axis=1)

    values = statistic(np.ones((1, len(nats))))[0]
    low, high = bootstrap(statistic, len(nats), resamples, seed=0)
    return {name: Metric(float(values[i]), float(low[i]), float(high[i]), len(nats)) for i, name in enumerate(NAMES)}


def masked_metrics(nats: ArrayLike, tokens: ArrayLike, right: ArrayLike, resamples: int) -> dict[str, Metric]:
    """log_loss (nats per masked token), perplexity and token_accuracy with 95 % intervals over blocks.

    nats, tokens, right: for each block (n,) its summed cross-entropy, its masked tokens and those predicted correctly.
    """
    nats, tokens, right = (np.asarray(values, dtype=np.float64) for values in (nats, tokens, right))

    def statistic(counts: np.ndarray) -> np.ndarray:  # counts (R, n) -> (R, 3)
        loss = counts @ nats / (counts @ tokens)
        return np.stack([loss, np.exp(np.minimum(loss, 50.0)), counts @ right / (counts @ tokens)], axis=1)

    values = statistic(np.ones((1, len(nats))))[0]
    low, high = bootstrap(statistic, len(nats), resamples, seed=0)
    names = ("log_loss", "perplexity", "token_accuracy")
    return {name: Metric(float(values[i]), float(low[i]), float(high[i]), len(nats)) for i, name in enumerate(names)}


def compressors(text: bytes) -> list[CompressedSize]:
    """Bits per byte of general compressors on the same text, as a sanity check."""
    if not text:
        return []
    found = {"bz2 -9": bz2.compress(text, 9), "xz -9e": lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)}
    return [CompressedSize(name, 8 * len(packed) / len(text)) for name, packed in found.items()]
