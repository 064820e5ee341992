"""The metrics of targets, and the baselines."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from finetune.evaluation.text_scores import SHORT, exact_match, rouge, word_counts
from finetune.evaluation.written import (
    References,
    Scores,
    WrittenEvaluation,
    WrittenScores,
    WrittenTexts,
    corpus_metrics,
    corpus_scores,
    length_ratio,
    mean,
    reference_scores,
    score_written,
)
from finetune.records import Record

COPY = "the source itself"
NEAREST = "the target of the most similar training source (TF-IDF)"
UNTUNED = "the model before training"
COMPARED = ("exact_match", "bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "token_accuracy", "log_loss")


@dataclass(frozen=True)
class TargetRow(Record):
    """A test pair and its generated targets: a line of targets.csv."""

    row: int  # in the data file
    source: str
    reference: str
    output: str
    untuned: str
    nearest: str


@dataclass(frozen=True)
class WarmStartRecord(Record):
    """Where an encoder-decoder's tensors come from when both sides start from a GPT."""

    copied: dict[str, list[str]]  # name in the GPT -> names of the tensors it was copied to
    fresh: list[str]  # tensors not copied from the GPT
    new_tokens: int


@dataclass(frozen=True, kw_only=True)
class TargetsEvaluation(WrittenEvaluation):
    """The content of this task's eval.json."""

    family: str
    signatures: dict[str, str]  # sacrebleu's signature of each corpus score
    samples: list[TargetRow]
    warm_start: WarmStartRecord | None  # None for a decoder, or if the weights were an encoder-decoder's


def choose_headline(references: list[str]) -> str:
    """exact_match if the median reference is short, else chrf.

    Depends only on the references, so that two models on the same data have the same headline.
    """
    return "exact_match" if np.median(word_counts(references)) <= SHORT else "chrf"


def target_scores(written: WrittenTexts, references: References, corpus: dict[str, Any]) -> dict[str, Scores]:
    """All metrics of outputs. corpus: the result of ``corpus_metrics`` for the references."""
    texts, wanted = written.texts, references.texts
    scores = {
        "exact_match": mean(exact_match(texts, wanted), share=True),
        **corpus_scores(corpus, texts),
        **{name: mean(values) for name, values in rouge(texts, wanted).items()},
        "length_ratio": length_ratio(texts, wanted),
    }
    if written.ended is not None:
        scores["ended"] = mean(written.ended, share=True)
    return scores | reference_scores(written, references)


def score_targets(
    own: WrittenTexts,
    sources: list[str],
    references: References,
    baselines: dict[str, WrittenTexts],
    clean: np.ndarray,
    resamples: int,
    seed: int,
    members: dict[str, np.ndarray] | None = None,
) -> tuple[WrittenScores, dict[str, str]]:
    """Score outputs with ``score_written``, with ``COPY`` as an additional baseline. Also returns sacrebleu's signatures."""
    corpus = corpus_metrics(references.texts)
    found = score_written(
        own,
        references,
        {COPY: WrittenTexts(sources)} | baselines,
        clean,
        partial(target_scores, corpus=corpus),
        choose_headline(references.texts),
        COMPARED,
        resamples,
        seed,
        members,
    )
    return found, {name: str(metric.get_signature()) for name, metric in corpus.items()}
