"""Checks of labelled rows before training: texts, labels, duplicates, lengths."""

import json
import re
import unicodedata
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np

from finetune.errors import DataError, counted, listed
from finetune.tables.findings import Finding, by_severity, quote, sample_of
from finetune.tables.giveaways import giveaways
from finetune.tables.label_checks import imbalance, missing_words, names_in_texts, rare_labels, spellings
from finetune.tables.near_duplicates import LEAST, SHINGLE, NearDuplicates
from finetune.tables.readers import LabelledTexts
from finetune.tables.splits import fold_text, text_keys

EMOJI = re.compile("[\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff\u2600-\u27bf]")
# UTF-8 decoded as Windows-1252, and the replacement character.
MOJIBAKE = re.compile("\u00c3[\u0080-\u00bf]|\u00c2[\u00a0-\u00bf]|\u00e2\u20ac|\ufffd")
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
DROPPED = dict.fromkeys(("repeated_header", "total_row"), "Delete these rows: they are not examples.")


def refuse_meaningless(source: LabelledTexts) -> None:
    """Raise DataError if results would be meaningless: texts used as labels, or the same text in all rows."""
    for finding in _meaningless(source):
        if finding.level == "stop":
            raise DataError(f"{finding.what} [{finding.code}]", got=listed(finding.examples), do=finding.do)


def check_rows(
    source: LabelledTexts,
    keys: np.ndarray,
    near: NearDuplicates | None = None,
    lengths: np.ndarray | None = None,
    context: int = 0,
) -> list[Finding]:
    """Run every check of the rows; findings come most severe first.

    keys: (n,) equal if the normalised texts are equal. lengths: (n,) in tokens; the model reads `context` of them.
    """
    found = [
        *_meaningless(source),
        *_dropped(source),
        missing_words(source.every_label),
        spellings(source.every_label),
        rare_labels(source.every_label),
        None if source.many else imbalance(source.labels),
        _conflicts(source, keys),
        _exact(source, keys),
        *_near(source, near),
        _lengths(source, lengths, context),
        *_characters(source),
        _nested(source),
        *giveaways(source),
        names_in_texts(source),
    ]
    return by_severity([finding for finding in found if finding])


def _meaningless(source: LabelledTexts) -> list[Finding]:
    rows, labels = len(source.rows), len(set(source.every_label))
    texts = set()
    for text in source.texts:
        texts.add(text)
        if len(texts) > max(rows / 20, 1):
            break
    few = len(texts) <= max(rows / 20, 1)
    if rows >= 10 and (labels > rows / 2 or few and labels > max(rows / 10, len(texts))):
        fix = (
            f"The columns look swapped: --text {source.label_column} --label {source.text_column}"
            if few
            else "Name the label column with --label NAME."
        )
        return [
            Finding(
                "many_labels",
                "stop",
                f"column {source.label_column!r} has {labels:,} different values in {rows:,} rows: too many for labels",
                fix,
                labels,
                examples=[quote(label) for label in source.labels[:3]],
            ).with_rows(source, range(3))
        ]
    if rows >= 10 and len(texts) == 1:
        return [
            Finding(
                "one_text",
                "stop",
                f"column {source.text_column!r} has the same text in all {rows:,} rows",
                "Name the text column with --text NAME.",
                rows,
                examples=[quote(source.texts[0])],
            ).with_rows(source, [0])
        ]
    if rows >= 200 and few:
        return [
            Finding(
                "few_texts",
                "warning",
                f"column {source.text_column!r} has {len(texts):,} different texts in {rows:,} rows",
                "Is it the text column? Name another with --text NAME.",
                len(texts),
                examples=[quote(text) for text in source.texts[:3]],
            ).with_rows(source, range(3))
        ]
    return []


def _dropped(source: LabelledTexts) -> list[Finding]:
    total = len(source.rows) + sum(source.dropped.values())
    found = []
    for reason, count in source.dropped.items():
        parts = [part for part in source.left_out if part.reason == reason]
        first = [(row, part.file) for part in parts for row in part.rows][:3]
        found.append(
            Finding(
                parts[0].check,
                "warning" if count > 0.01 * total else "note",
                f"{count:,} of {total:,} rows are left out: {reason}",
                DROPPED.get(parts[0].check, "Fill in the empty cells, or delete these rows."),
                count,
                rows=[row for row, _ in first],
                files=[file for _, file in first if file],
            )
        )
    return found


def _first_rows(keys: np.ndarray) -> np.ndarray:
    """(n,): the position of the first row with the same key."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse]


def _exact(source: LabelledTexts, keys: np.ndarray) -> Finding | None:
    first = _first_rows(keys)
    again = np.flatnonzero(first != np.arange(len(first)))
    if not len(again):
        return None
    often = Counter(first[again].tolist()).most_common(3)
    return Finding(
        "exact_duplicates",
        "note",
        f"{counted(len(again), 'row repeats', 'rows repeat')} an earlier text (ignoring case, digits and white space)",
        "The automatic split keeps copies together; if you split the data yourself, do the same.",
        len(again),
        examples=[f"{count + 1} times: {quote(source.texts[at])}" for at, count in often],
    ).with_rows(source, [at for at, _ in often])


def _conflicts(source: LabelledTexts, keys: np.ndarray) -> Finding | None:
    """The same text under several labels. Digits count here: order number 1 is not order number 3."""
    _, number, copies = np.unique(keys, return_inverse=True, return_counts=True)
    again = np.flatnonzero(copies[number] > 1)
    first = again[_first_rows(text_keys([source.texts[at] for at in again], fold_text))]
    wrong = [
        (at, begin)
        for at, begin in zip(again.tolist(), first.tolist(), strict=True)
        if source.labels[at] != source.labels[begin]
    ]
    if not wrong:
        return None
    shown, texts = wrong[:3], len({begin for _, begin in wrong})
    return Finding(
        "conflicting_labels",
        "warning",
        f"{counted(texts, 'text has', 'texts have')} more than one label",
        "Decide which label is right: no model can learn both.",
        len(wrong),
        examples=[
            f"{quote(source.labels[begin])} and {quote(source.labels[at])}: {quote(source.texts[at])}"
            for at, begin in shown
        ],
    ).with_rows(source, [at for at, _ in shown])


def _near(source: LabelledTexts, near: NearDuplicates | None) -> list[Finding]:
    if near is None or not near.pairs:
        return []
    found = []
    rows = near.rows()
    part = "" if near.complete else f"; there may be more: the search stopped after {near.compared:,} comparisons"

    def with_pairs(finding: Finding, pairs: list[tuple[int, int, float]]) -> Finding:
        nearest = sorted(pairs, key=lambda pair: -pair[2])[:3]
        quoted = [
            [f"{quote(source.texts[at])} ({quote(source.labels[at], 20)})" for at in pair[:2]] for pair in nearest
        ]
        examples = [
            f"{int(100 * similarity)} %: {one} | {other}"
            for (*_, similarity), (one, other) in zip(nearest, quoted, strict=True)
        ]
        return replace(finding, examples=examples).with_rows(source, [pair[1] for pair in nearest])

    apart = [pair for pair in near.pairs if source.labels[pair[0]] != source.labels[pair[1]]]
    if apart:
        finding = Finding(
            "near_duplicates_with_other_label",
            "warning",
            f"{counted(len(apart), 'pair')} of nearly identical texts with different labels",
            "Check these pairs: one of the two labels may be wrong.",
            len(apart),
        )
        found.append(with_pairs(finding, apart))
    level = "warning" if len(rows) > 0.01 * len(source.rows) else "note"
    what = (
        f"{len(rows):,} rows ({len(rows) / len(source.rows):.1%}) are near duplicates of another row: at least "
        f"{LEAST:.0%} of their {SHINGLE}-character substrings are the same{part}"
    )
    finding = Finding(
        "near_duplicates",
        level,
        what,
        "Copies in both train and test inflate the score: keep one of each, or group them with --group COL.",
        len(rows),
    )
    return [*found, with_pairs(finding, near.pairs)]


def _lengths(source: LabelledTexts, lengths: np.ndarray | None, context: int) -> Finding | None:
    if lengths is None or not (lengths > context).any():
        return None
    cut = int((lengths > context).sum())
    lost = float(np.maximum(lengths - context, 0).sum() / lengths.sum())
    longest = np.argsort(-lengths, kind="stable")[: min(cut, 3)]
    return Finding(
        "cut_texts",
        "warning" if cut > 0.01 * len(lengths) else "note",
        f"{cut:,} of {len(lengths):,} texts are longer than {context:,} tokens: the rest of each is "
        f"not read, {lost:.1%} of all tokens",
        "Read more of them (--long-texts windows, or head-tail), or use weights with a longer context.",
        cut,
        examples=[f"{lengths[at]:,} tokens: {quote(source.texts[at])}" for at in longest],
    ).with_rows(source, longest)


def letter_counts(texts: list[str]) -> tuple[int, int]:
    """(number of letters, number of non-Latin letters)."""
    letters = foreign = 0
    for text in texts:
        if text.isascii():
            letters += len(text) - text.count(" ")  # close enough, and a hundred times faster
            continue
        own = [character for character in text if character.isalpha()]
        letters += len(own)
        foreign += sum(map(_foreign, own))
    return letters, foreign


@lru_cache(maxsize=4096)
def _foreign(letter: str) -> bool:
    return not letter.isascii() and "LATIN" not in unicodedata.name(letter, "")


def _characters(source: LabelledTexts) -> list[Finding]:
    """Non-Latin letters, emoji, control characters, and characters left by a wrong encoding."""
    at = sample_of(source)
    texts = [source.texts[i] for i in at]
    letters, foreign = letter_counts(texts)
    found = []
    if foreign > 0.05 * letters:
        found.append(
            Finding(
                "other_alphabet",
                "warning" if foreign > 0.3 * letters else "note",
                f"{foreign / letters:.0%} of the letters are not Latin",
                "GPT-2 was trained on English: it needs several tokens for such a letter and hardly knows "
                "the language. Compare it with the baseline in the report.",
                foreign,
            )
        )
    for check, pattern, level, what, fix in (
        (
            "broken_characters",
            MOJIBAKE,
            "warning",
            "wrongly decoded characters",
            "Export the file again as UTF-8: the damage was done before this file was written.",
        ),
        (
            "control_characters",
            CONTROL,
            "note",
            "control characters, such as a null byte",
            "They are kept; remove them if they mean nothing.",
        ),
        ("emoji", EMOJI, "note", "emoji", "They are kept; each takes a few tokens."),
    ):
        hits = [
            i
            for i, text in zip(at, texts, strict=True)
            if (pattern is CONTROL or not text.isascii()) and pattern.search(text)
        ]
        if hits:
            found.append(
                Finding(
                    check,
                    level,
                    f"{len(hits):,} of {len(at):,} texts contain {what}",
                    fix,
                    len(hits),
                    examples=[quote(source.texts[i]) for i in hits[:3]],
                ).with_rows(source, hits[:3])
            )
    return found


def _nested(source: LabelledTexts) -> Finding | None:
    """Texts that are JSON lists or objects."""
    at = sample_of(source)[:1000]
    kinds = {i: kind for i in at if (kind := nested_kind(source.texts[i]))}
    if len(kinds) < len(at) / 2:
        return None
    shown = list(kinds)[:3]
    fix = (
        "Join the tokens of each list into one text."
        if kinds[shown[0]] == "lists"
        else f"Name the field with the text: --text {source.text_column}.NAME"
    )
    return Finding(
        "nested_texts",
        "warning",
        f"column {source.text_column!r} has {kinds[shown[0]]}, not texts: the model reads their JSON",
        fix,
        len(kinds),
        examples=[quote(source.texts[i]) for i in shown],
    ).with_rows(source, shown)


def nested_kind(text: str) -> str:
    """``lists`` or ``objects`` if the text is JSON of one, else empty."""
    if text[:1] not in ("[", "{"):
        return ""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return "lists" if isinstance(value, list) else "objects" if isinstance(value, dict) else ""
