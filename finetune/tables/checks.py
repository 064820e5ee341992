"""Checks of labelled rows before training: texts, labels, duplicates, lengths."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import islice, zip_longest
from typing import Any

import numpy as np

from finetune.errors import DataError, listed, shorten
from finetune.tables.codes import BY_NAME
from finetune.tables.near_duplicates import LEAST, SHINGLE, NearDuplicates
from finetune.tables.readers import LabelledTexts, place

LEVELS = ("stop", "warning", "note")
RARE = 10  # with fewer rows, a label can be neither learned nor measured well
MISSING = frozenset({"nan", "null", "na", "n/a", "none", "nil", "#n/a", "#na", "<na>"})
SAMPLED = 100_000  # rows whose characters and words are checked
EMOJI = re.compile("[\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff\u2600-\u27bf]")
# UTF-8 decoded as Windows-1252, and the replacement character.
MOJIBAKE = re.compile("\u00c3[\u0080-\u00bf]|\u00c2[\u00a0-\u00bf]|\u00e2\u20ac|\ufffd")
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class Finding:
    """One finding about a table. level: stop (results would be meaningless), warning or note."""

    check: str  # name in codes.py, which also gives the code
    level: str
    what: str
    do: str = ""
    count: int = 0
    rows: list[int] = field(default_factory=list)  # the worst rows, as row numbers in the file
    examples: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)  # the file of each of these rows, if there are several files

    def __post_init__(self) -> None:
        assert self.check in BY_NAME, f"{self.check!r} has no code: list it in codes.py"
        assert (self.level == "stop") == BY_NAME[self.check].stops, f"{self.check!r} cannot be a {self.level}"

    @property
    def code(self) -> str:
        """The code for muting and look-up, such as ``FT012``."""
        return BY_NAME[self.check].code

    @property
    def places(self) -> list[str]:
        """The worst rows, as messages name them: ``test.csv row 6``."""
        return [place(row, self.files[at] if at < len(self.files) else "") for at, row in enumerate(self.rows)]

    @property
    def examples_by_place(self) -> list[str]:
        """Each example with its row in front; a row or an example without the other stands alone."""
        pairs = zip_longest(self.places, self.examples, fillvalue="")
        return [": ".join(filter(None, pair)) for pair in pairs]

    def with_rows(self, source: LabelledTexts, positions: Sequence[int] | np.ndarray) -> "Finding":
        """The finding with the rows (and files) at these positions of the source as its worst rows."""
        files = [source.files[i] for i in positions] if source.files else []
        return replace(self, rows=[source.rows[i] for i in positions], files=files)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, with the code first."""
        return {"code": self.code} | asdict(self)


def without_muted(findings: Sequence[Finding], codes: Collection[str]) -> list[Finding]:
    """The findings whose code is not in `codes`."""
    return [finding for finding in findings if finding.code not in codes]


def located(finding: Finding) -> str:
    """A finding's message, with the worst rows."""
    return finding.what + (f" ({', '.join(finding.places)})" if finding.rows else "")


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
        _missing_words(source.every_label),
        _spellings(source.every_label),
        _rare(source.every_label),
        None if source.many else _imbalance(source.labels),
        _conflicts(source, keys),
        _exact(source, keys),
        *_near(source, near),
        _lengths(source, lengths, context),
        *_characters(source),
        *_names_in_texts(source),
    ]
    return by_severity([finding for finding in found if finding])


def by_severity(findings: list[Finding]) -> list[Finding]:
    """Sort by severity: stops, then warnings, then notes."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


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
                examples=[_quote(label) for label in source.labels[:3]],
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
                examples=[_quote(source.texts[0])],
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
                examples=[_quote(text) for text in source.texts[:3]],
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
                "Fill in the empty cells, or delete these rows.",
                count,
                rows=[row for row, _ in first],
                files=[file for _, file in first if file],
            )
        )
    return found


def _missing_words(labels: list[str]) -> Finding | None:
    """Labels that look like a missing value."""
    counts = {label: count for label, count in Counter(labels).items() if label.strip().casefold() in MISSING}
    if not counts:
        return None
    rows = sum(counts.values())
    what = f"{rows:,} rows labelled {listed(list(map(_quote, counts)))} look like missing labels"
    meant = {label.strip().casefold() for label in counts} <= {"none", "nil"}  # a real class in some data sets
    return Finding(
        "missing_words",
        "note" if meant else "warning",
        f"{what}; the model learns them as a class",
        "If these rows have no label, empty the cell.",
        rows,
        examples=[f"{_quote(label)} {count:,}" for label, count in counts.items()][:5],
    )


def _spellings(labels: list[str]) -> Finding | None:
    """Labels that differ only in case, white space or number format."""
    counts = Counter(labels)
    same: dict[str, list[str]] = {}
    for label in counts:
        same.setdefault(_plain(label), []).append(label)
    alike = [group for group in same.values() if len(group) > 1]
    if not alike:
        return None
    rows = sum(counts[label] for group in alike for label in sorted(group, key=counts.__getitem__)[:-1])
    return Finding(
        "label_spelling",
        "warning",
        f"{len(alike)} labels are spelled in several ways; {rows:,} rows have a rarer spelling",
        "Spell each label in one way: each spelling is a class of its own.",
        rows,
        examples=[" / ".join(_quote(label) for label in group) for group in alike[:5]],
    )


def _plain(label: str) -> str:
    """A label normalised for case, white space, dashes and zeros in numbers."""
    text = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", label).casefold()).strip()
    try:
        return str(float(text))
    except ValueError:
        return text


def _rare(labels: list[str]) -> Finding | None:
    rare = {label: count for label, count in Counter(labels).items() if count < RARE}
    if not rare:
        return None
    fewest = sorted(rare, key=rare.__getitem__)
    return Finding(
        "rare_labels",
        "warning",
        f"{len(rare):,} labels have fewer than {RARE} rows",
        "Add rows, or merge or drop these labels: their scores cannot be trusted.",
        len(rare),
        examples=[f"{_quote(label)} {rare[label]}" for label in fewest[:5]],
    )


def _imbalance(labels: list[str]) -> Finding | None:
    counts = Counter(labels).most_common()
    share = counts[0][1] / len(labels)
    if share < 0.8 and counts[0][1] < 20 * counts[-1][1]:
        return None
    return Finding(
        "imbalance",
        "warning" if share >= 0.9 else "note",
        f"{share:.0%} of the rows are {_quote(counts[0][0])}, {counts[-1][1] / len(labels):.1%} are "
        f"{_quote(counts[-1][0])}: always predicting {_quote(counts[0][0])} has an accuracy of {share:.0%}",
        "Look at f1_macro as well as accuracy; train.class_weights=balanced gives every label the same weight.",
        counts[0][1],
    )


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
        f"{len(again):,} rows repeat an earlier text (ignoring case, digits and white space)",
        "Our split keeps copies in the same part; if you split the data yourself, do the same.",
        len(again),
        examples=[f"{count + 1} times: {_quote(source.texts[at])}" for at, count in often],
    ).with_rows(source, [at for at, _ in often])


def _conflicts(source: LabelledTexts, keys: np.ndarray) -> Finding | None:
    first = _first_rows(keys)
    wrong = [at for at, begin in enumerate(first.tolist()) if source.labels[at] != source.labels[begin]]
    if not wrong:
        return None
    shown = wrong[:3]
    return Finding(
        "conflicting_labels",
        "warning",
        f"{len(set(first[wrong].tolist())):,} texts have more than one label",
        "Decide which label is right: no model can learn both.",
        len(wrong),
        examples=[
            f"{_quote(source.labels[first[at]])} and {_quote(source.labels[at])}: {_quote(source.texts[at])}"
            for at in shown
        ],
    ).with_rows(source, shown)


def _near(source: LabelledTexts, near: NearDuplicates | None) -> list[Finding]:
    if near is None or not near.pairs:
        return []
    found = []
    rows = near.rows()
    part = "" if near.complete else f"; there may be more: the search stopped after {near.compared:,} comparisons"

    def with_pairs(finding: Finding, pairs: list[tuple[int, int, float]]) -> Finding:
        nearest = sorted(pairs, key=lambda pair: -pair[2])[:3]
        quoted = [
            [f"{_quote(source.texts[at])} ({_quote(source.labels[at], 20)})" for at in pair[:2]] for pair in nearest
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
            f"{len(apart):,} pairs of nearly identical texts have different labels",
            "Check these pairs: one of the two labels is probably wrong.",
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
        "Put the decisive part first, split long texts, or use weights with a longer context.",
        cut,
        examples=[f"{lengths[at]:,} tokens: {_quote(source.texts[at])}" for at in longest],
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


def sample_of(source: LabelledTexts) -> list[int]:
    """Evenly spaced positions; all positions if the file is small."""
    return list(range(0, len(source.texts), max(1, len(source.texts) // SAMPLED)))


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
                    examples=[_quote(source.texts[i]) for i in hits[:3]],
                ).with_rows(source, hits[:3])
            )
    return found


def _names_in_texts(source: LabelledTexts) -> list[Finding]:
    """Labels whose name is far more frequent in their own texts than in other texts."""
    named = {label.casefold(): label for label in set(source.every_label) if len(label) > 2 and label.isalpha()}
    if not named or len(named) > 200:
        return []
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(named))) + r")\b")
    at = sample_of(source)
    size = Counter(label for i in at for label in source.labels_of(i))
    inside: Counter[str] = Counter()  # rows of a label whose text has its name
    outside: Counter[str] = Counter()  # other rows that have it
    for i in at:
        for label in {named[word] for word in pattern.findall(source.texts[i].casefold())}:
            (inside if label in source.labels_of(i) else outside)[label] += 1
    found = []
    for label in named.values():
        own = inside[label] / max(size[label], 1)
        others = outside[label] / max(len(at) - size[label], 1)
        if own >= 0.2 and own > 5 * others:
            held = (i for i in at if label in source.labels_of(i) and label.casefold() in source.texts[i].casefold())
            rows = list(islice(held, 3))
            found.append(
                Finding(
                    "label_in_text",
                    "warning",
                    f"the word {_quote(label)} occurs in {own:.0%} of the "
                    f"texts with that label and in {others:.1%} of the others",
                    "If it was added together with the label, remove it: new texts will not contain it.",
                    inside[label],
                    examples=[_quote(source.texts[i]) for i in rows],
                ).with_rows(source, rows)
            )
    return found


def _quote(text: str, most: int = 60) -> str:
    return repr(shorten(text, most))
