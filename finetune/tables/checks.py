"""Checks of labelled rows before training: texts, labels, duplicates, lengths."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import zip_longest

import numpy as np

from finetune.errors import DataError, listed, shorten
from finetune.tables.codes import BY_NAME
from finetune.tables.near_duplicates import LEAST, SHINGLE, NearDuplicates
from finetune.tables.readers import LabelledTexts, place

LEVELS = ("stop", "warning", "note")
RARE = 10  # rows below which a label can be neither learned nor measured well
MISSING = frozenset({"nan", "null", "na", "n/a", "none", "nil", "#n/a", "#na", "<na>"})  # missing values
SAMPLED = 100_000  # rows whose characters and words are checked
EMOJI = re.compile("[\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff\u2600-\u27bf]")
# UTF-8 decoded as Windows-1252, and the replacement character.
MOJIBAKE = re.compile("\u00c3[\u0080-\u00bf]|\u00c2[\u00a0-\u00bf]|\u00e2\u20ac|\ufffd")
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class Finding:
    """One finding about a table. level: stop (results would be meaningless), warning or note."""

    check: str  # name in the list of checks, which gives the code
    level: str
    what: str
    do: str = ""
    count: int = 0
    rows: list[int] = field(default_factory=list)  # the worst rows, as row numbers in the file
    examples: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)  # file of each of these rows, if there are several

    def __post_init__(self) -> None:
        assert self.check in BY_NAME, f"{self.check!r} has no code: list it in codes.py"
        assert (self.level == "stop") == BY_NAME[self.check].stops, f"{self.check!r} cannot be a {self.level}"

    @property
    def code(self) -> str:
        """The code for muting and look-up, such as ``FT012``."""
        return BY_NAME[self.check].code

    def as_dict(self) -> dict:
        """A dict for JSON, with the code first."""
        return {"code": self.code} | asdict(self)


def without_muted(findings: Sequence[Finding], codes: Collection[str]) -> list[Finding]:
    """The findings without these codes."""
    return [finding for finding in findings if finding.code not in codes]


def places(finding: dict) -> list[str]:
    """The rows of a finding's dict as a user finds them: ``test.csv row 6``."""
    return [
        place(row, file)  # type: ignore[arg-type]  # a finding has no more files than rows
        for row, file in zip_longest(finding["rows"], finding["files"], fillvalue="")
    ]


def located(finding: Finding) -> str:
    """A finding's message, with the worst rows."""
    return finding.what + (f" ({', '.join(places(finding.as_dict()))})" if finding.rows else "")


def _rows(source: LabelledTexts, at: Sequence[int] | np.ndarray) -> dict:
    """`rows` and `files` of a finding about these positions."""
    return {"rows": [source.rows[i] for i in at], "files": [source.files[i] for i in at] if source.files else []}


def refuse_meaningless(source: LabelledTexts) -> None:
    """Raise DataError if results would be meaningless: labels that are texts, or the same text in all rows."""
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
    """Run every check of the rows, most severe first.

    keys: (n,) equal where two normalised texts are; lengths: (n,) in tokens, of which `context` are read.
    """
    found = [
        *_meaningless(source),
        *_dropped(source),
        _missing_words(source.labels),
        _spellings(source.labels),
        _rare(source.labels),
        _imbalance(source.labels),
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
    rows, labels = len(source.rows), len(set(source.labels))
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
            else "Name the column of labels with --label NAME."
        )
        return [
            Finding(
                "many_labels",
                "stop",
                f"column {source.label_column!r} has {labels:,} different values in {rows:,} rows: too many for labels",
                fix,
                labels,
                examples=[_quote(label) for label in source.labels[:3]],
                **_rows(source, range(3)),
            )
        ]
    if rows >= 10 and len(texts) == 1:
        return [
            Finding(
                "one_text",
                "stop",
                f"column {source.text_column!r} holds one text in all {rows:,} rows",
                "Name the column of texts with --text NAME.",
                rows,
                examples=[_quote(source.texts[0])],
                **_rows(source, [0]),
            )
        ]
    if rows >= 200 and few:
        return [
            Finding(
                "few_texts",
                "warning",
                f"column {source.text_column!r} has {len(texts):,} different texts in {rows:,} rows",
                "Is it the column of texts? Name another with --text NAME.",
                len(texts),
                examples=[_quote(text) for text in source.texts[:3]],
                **_rows(source, range(3)),
            )
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
                "Fill them in, or leave them out for good.",
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
    meant = {label.strip().casefold() for label in counts} <= {"none", "nil"}  # in some sets a class of its own
    return Finding(
        "missing_words",
        "note" if meant else "warning",
        f"{what}; they are learnt as a class",
        "Leave these rows without a label, if that is what they are.",
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
        f"{len(alike)} labels are written in several ways; {rows:,} rows hold the rarer spelling",
        "Write each label in one way; now they are learnt as different.",
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
        "Add rows of them, merge them, or leave them out: no score on them can be trusted.",
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
        f"{_quote(counts[-1][0])}: always saying the first is right that often",
        "Read f1_macro beside accuracy; the setting train.class_weights=balanced weighs labels alike.",
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
        f"{len(again):,} rows repeat an earlier text (but for case, digits and white space)",
        "The split keeps them on one side; a file that is split already should not have them on two.",
        len(again),
        **_rows(source, [at for at, _ in often]),
        examples=[f"{count + 1} times: {_quote(source.texts[at])}" for at, count in often],
    )


def _conflicts(source: LabelledTexts, keys: np.ndarray) -> Finding | None:
    first = _first_rows(keys)
    wrong = [at for at, begin in enumerate(first.tolist()) if source.labels[at] != source.labels[begin]]
    if not wrong:
        return None
    shown = wrong[:3]
    return Finding(
        "conflicting_labels",
        "warning",
        f"{len(set(first[wrong].tolist())):,} texts stand under two labels or more",
        "Decide which label is right: no model can learn both.",
        len(wrong),
        **_rows(source, shown),
        examples=[
            f"{_quote(source.labels[first[at]])} and {_quote(source.labels[at])}: {_quote(source.texts[at])}"
            for at in shown
        ],
    )


def _near(source: LabelledTexts, near: NearDuplicates | None) -> list[Finding]:
    if near is None or not near.pairs:
        return []
    found = []
    rows = near.rows()
    part = "" if near.complete else f" at least; the search ended after {near.compared:,} comparisons"

    def shown(pairs: list) -> dict:
        nearest = sorted(pairs, key=lambda pair: -pair[2])[:3]
        quoted = [
            [f"{_quote(source.texts[at])} ({_quote(source.labels[at], 20)})" for at in pair[:2]] for pair in nearest
        ]
        examples = [
            f"{int(100 * similarity)} %: {one} | {other}"
            for (*_, similarity), (one, other) in zip(nearest, quoted, strict=True)
        ]
        return _rows(source, [pair[1] for pair in nearest]) | {"examples": examples}

    apart = [pair for pair in near.pairs if source.labels[pair[0]] != source.labels[pair[1]]]
    if apart:
        found.append(
            Finding(
                "near_duplicates_with_other_label",
                "warning",
                f"{len(apart):,} pairs of almost the same text stand under two labels",
                "Look at them: one of the two labels is likely wrong.",
                len(apart),
                **shown(apart),
            )
        )
    level = "warning" if len(rows) > 0.01 * len(source.rows) else "note"
    what = (
        f"{len(rows):,} rows ({len(rows) / len(source.rows):.1%}) are almost the same as another: {LEAST:.0%} or "
        f"more of their runs of {SHINGLE} characters are the same{part}"
    )
    found.append(
        Finding(
            "near_duplicates",
            level,
            what,
            "A split can part them, which flatters the score; leave one "
            "of each, or name what they share with --group COL.",
            len(rows),
            **shown(near.pairs),
        )
    )
    return found


def _lengths(source: LabelledTexts, lengths: np.ndarray | None, context: int) -> Finding | None:
    if lengths is None or not (lengths > context).any():
        return None
    cut = int((lengths > context).sum())
    lost = float(np.maximum(lengths - context, 0).sum() / lengths.sum())
    longest = np.argsort(-lengths, kind="stable")[: min(cut, 3)]
    return Finding(
        "cut_texts",
        "warning" if cut > 0.01 * len(lengths) else "note",
        f"{cut:,} of {len(lengths):,} texts are longer than {context:,} tokens: what comes behind is "
        f"not read, {lost:.1%} of all tokens",
        "Put what tells the label first, split long texts, or take weights with a longer context.",
        cut,
        **_rows(source, longest),
        examples=[f"{lengths[at]:,} tokens: {_quote(source.texts[at])}" for at in longest],
    )


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
    """Other alphabets, emoji, and characters left by a wrong encoding or a broken export."""
    at = sample_of(source)
    texts = [source.texts[i] for i in at]
    letters, foreign = letter_counts(texts)
    found = []
    if foreign > 0.05 * letters:
        found.append(
            Finding(
                "other_alphabet",
                "warning" if foreign > 0.3 * letters else "note",
                f"{foreign / letters:.0%} of the letters are of another alphabet than the Latin one",
                "GPT-2 has read English; it needs several tokens for such a letter and knows little of "
                "the language. The baseline in the report shows what that costs.",
                foreign,
            )
        )
    for check, pattern, level, what, fix in (
        (
            "broken_characters",
            MOJIBAKE,
            "warning",
            "characters of a wrong encoding",
            "Export the file again as UTF-8: letters were lost or doubled before it came here.",
        ),
        (
            "control_characters",
            CONTROL,
            "note",
            "control characters (a null byte, say)",
            "They are kept as they are; leave them out if they mean nothing.",
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
                    f"{len(hits):,} of {len(at):,} texts hold {what}",
                    fix,
                    len(hits),
                    **_rows(source, hits[:3]),
                    examples=[_quote(source.texts[i]) for i in hits[:3]],
                )
            )
    return found


def _names_in_texts(source: LabelledTexts) -> list[Finding]:
    """Labels whose name occurs far more often in their own texts than in others."""
    named = {label.casefold(): label for label in set(source.labels) if len(label) > 2 and label.isalpha()}
    if not named or len(named) > 200:
        return []
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(named))) + r")\b")
    at = sample_of(source)
    size = Counter(source.labels[i] for i in at)
    hits: Counter[tuple[str, str]] = Counter()
    for i in at:
        hits.update((named[word], source.labels[i]) for word in set(pattern.findall(source.texts[i].casefold())))
    found = []
    for label in named.values():
        own = hits[label, label] / max(size[label], 1)
        others = sum(count for (name, of), count in hits.items() if name == label != of) / max(len(at) - size[label], 1)
        if own >= 0.2 and own > 5 * others:
            rows = [i for i in at if source.labels[i] == label and label.casefold() in source.texts[i].casefold()][:3]
            found.append(
                Finding(
                    "label_in_text",
                    "warning",
                    f"the word {_quote(label)} stands in {own:.0%} of the "
                    f"texts of that label and in {others:.1%} of the others",
                    "If it was put there with the label, take it out: new texts will not have it.",
                    hits[label, label],
                    **_rows(source, rows),
                    examples=[_quote(source.texts[i]) for i in rows],
                )
            )
    return found


def _quote(text: str, most: int = 60) -> str:
    return repr(shorten(text, most))
