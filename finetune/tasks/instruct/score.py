"""The metrics of answers, and the baselines."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from finetune.evaluation.text_scores import (
    SHORT,
    exact_match,
    repetition,
    rouge,
    squad_exact_match,
    token_f1,
    word_counts,
)
from finetune.evaluation.written import (
    References,
    Scores,
    WrittenEvaluation,
    WrittenScores,
    WrittenTexts,
    length_ratio,
    mean,
    reference_scores,
    score_written,
)
from finetune.records import Record

NEAREST = "the answer to the nearest training question (TF-IDF)"
UNTUNED = "the model before training, same prompt"
OF_SHORT = ("exact_match", "squad_exact_match", "token_f1")  # measured only on short references
COMPARED = (*OF_SHORT, "rouge_l", "log_loss")


@dataclass(frozen=True)
class AnswerRow(Record):
    """A test record and its answers: a line of answers.csv."""

    row: int  # in the data file
    question: str
    reference: str
    answer: str
    untuned: str
    nearest: str


@dataclass(frozen=True, kw_only=True)
class AnswersEvaluation(WrittenEvaluation):
    """The content of this task's eval.json."""

    samples: list[AnswerRow]


def answer_scores(written: WrittenTexts, references: References, markers: tuple[str, ...] = ()) -> dict[str, Scores]:
    """All metrics of answers; those in ``OF_SHORT`` only for short references.

    well_formed: ended by itself, not empty, and no line begins with a marker, as another prompt would.
    """
    texts, wanted = written.texts, references.texts
    short: dict[str, Any] = {"over": word_counts(wanted) <= SHORT, "reason": f"no reference has {SHORT} words or fewer"}
    scores = {
        "exact_match": mean(exact_match(texts, wanted), **short, share=True),
        "squad_exact_match": mean(squad_exact_match(texts, wanted), **short, share=True),
        "token_f1": mean(token_f1(texts, wanted), **short),
        "rouge_l": mean(rouge(texts, wanted, ("rouge_l",))["rouge_l"]),
        "repetition": mean(repetition(texts)),
    }
    if written.ended is not None:
        kept = [
            done and bool(text.strip()) and not _goes_on(text, markers)
            for text, done in zip(texts, written.ended, strict=True)
        ]
        scores |= {"ended": mean(written.ended, share=True), "well_formed": mean(kept, share=True)}
    return scores | {"length_ratio": length_ratio(texts, wanted)} | reference_scores(written, references)


def _goes_on(text: str, markers: tuple[str, ...]) -> bool:
    return bool(markers) and any(line.strip().startswith(markers) for line in text.splitlines())


def score_answers(
    own: WrittenTexts,
    references: References,
    baselines: dict[str, WrittenTexts],
    clean: np.ndarray,
    markers: tuple[str, ...],
    resamples: int,
    seed: int,
    members: dict[str, np.ndarray] | None = None,
) -> WrittenScores:
    """Score answers with ``score_written``. The headline is exact_match, or rouge_l if no reference is short."""
    headline = "exact_match" if (word_counts(references.texts) <= SHORT).any() else "rouge_l"
    return score_written(
        own,
        references,
        baselines,
        clean,
        partial(answer_scores, markers=markers),
        headline,
        COMPARED,
        resamples,
        seed,
        members,
    )
