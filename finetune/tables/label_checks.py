"""Checks of the labels: missing, spelled in several ways, rare, unbalanced, named in their own texts."""

import re
import unicodedata
from collections import Counter

from finetune.errors import counted, listed
from finetune.tables.findings import Finding, quote, sample_of
from finetune.tables.readers import LabelledTexts

RARE = 10  # with fewer rows, a label can be neither learned nor measured well
MISSING = frozenset({"nan", "null", "na", "n/a", "none", "nil", "#n/a", "#na", "<na>"})
OUTER = " .,;:!?'\""  # punctuation around a label


def missing_words(labels: list[str]) -> Finding | None:
    """Labels that look like a missing value."""
    counts = {label: count for label, count in Counter(labels).items() if label.strip().casefold() in MISSING}
    if not counts:
        return None
    rows = sum(counts.values())
    what = f"{rows:,} rows labelled {listed(list(map(quote, counts)))} look like missing labels"
    meant = {label.strip().casefold() for label in counts} <= {"none", "nil"}  # a real class in some data sets
    return Finding(
        "missing_words",
        "note" if meant else "warning",
        f"{what}; the model learns them as a class",
        "If these rows have no label, leave the cell empty.",
        rows,
        examples=[f"{quote(label)} {count:,}" for label, count in counts.items()][:5],
    )


def spellings(labels: list[str]) -> Finding | None:
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
        f"{counted(len(alike), 'label is', 'labels are')} spelled in several ways; "
        f"{counted(rows, 'row has', 'rows have')} a rarer spelling",
        "Spell each label in one way: each spelling is a class of its own.",
        rows,
        examples=[" / ".join(quote(label) for label in group) for group in alike[:5]],
    )


def _plain(label: str) -> str:
    """A label without case, invisible characters, outer punctuation, and the variants of dashes and of zeros."""
    text = unicodedata.normalize("NFKC", label).casefold().strip()
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    try:
        return str(float(text))  # before dashes are folded: -1 is not 1
    except ValueError:
        folded = re.sub(r"[\s_-]+", " ", text).strip()
        return folded.strip(OUTER) or folded


def _percent(share: float) -> str:
    """96%, with decimals near 0 and 100, so that only exact shares are shown as 0 or 100."""
    if 0.01 <= share < 0.995 or share in (0, 1):
        return f"{share:.0%}"
    return "under 0.01%" if share < 0.0001 else "over 99.99%" if share > 0.9999 else f"{share:.2%}"


def rare_labels(labels: list[str]) -> Finding | None:
    rare = {label: count for label, count in Counter(labels).items() if count < RARE}
    if not rare:
        return None
    fewest = sorted(rare, key=rare.__getitem__)
    return Finding(
        "rare_labels",
        "warning",
        f"{counted(len(rare), 'label has', 'labels have')} fewer than {RARE} rows",
        "Add rows, or merge or drop these labels: their scores cannot be trusted.",
        len(rare),
        examples=[f"{quote(label)} {rare[label]}" for label in fewest[:5]],
    )


def imbalance(labels: list[str]) -> Finding | None:
    counts = Counter(labels).most_common()
    share = counts[0][1] / len(labels)
    if share < 0.8 and counts[0][1] < 20 * counts[-1][1]:
        return None
    return Finding(
        "imbalance",
        "warning" if share >= 0.9 else "note",
        f"{_percent(share)} of the rows are {quote(counts[0][0])}, {_percent(counts[-1][1] / len(labels))} are "
        f"{quote(counts[-1][0])}: always predicting {quote(counts[0][0])} has an accuracy of {_percent(share)}",
        "Look at f1_macro as well as accuracy; train.class_weights=balanced gives every label the same weight.",
        counts[0][1],
    )


def names_in_texts(source: LabelledTexts) -> Finding | None:
    """Labels whose name is far more frequent in their own texts than in other texts."""
    named = {label.casefold(): label for label in set(source.every_label) if len(label) > 2 and label.isalpha()}
    if not named or len(named) > 200:
        return None
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(named))) + r")\b")
    at = sample_of(source)
    size = Counter(label for i in at for label in source.labels_of(i))
    inside: Counter[str] = Counter()  # rows of a label whose text has its name
    outside: Counter[str] = Counter()  # other rows whose text has it
    for i in at:
        for label in {named[word] for word in pattern.findall(source.texts[i].casefold())}:
            (inside if label in source.labels_of(i) else outside)[label] += 1
    given: list[tuple[float, str, str]] = []  # (share in its own texts, label, both shares in words)
    for label in sorted(named.values()):
        own = inside[label] / max(size[label], 1)
        others = outside[label] / max(len(at) - size[label], 1)
        if own >= 0.2 and own > 5 * others:
            given.append((own, label, f"{own:.0%} of the texts with that label and in {others:.1%} of the others"))
    if not given:
        return None
    given.sort(reverse=True)
    rows = []
    for _, label, _ in given[:3]:
        own_rows = [i for i in at if label in source.labels_of(i) and label.casefold() in source.texts[i].casefold()]
        rows += own_rows[: 3 if len(given) == 1 else 1]
    what = (
        f"the word {quote(given[0][1])} occurs in {given[0][2]}"
        if len(given) == 1
        else f"the names of {len(given)} labels occur in their own texts: "
        + listed([f"{quote(label)} in {shares}" for _, label, shares in given], 2)
    )
    return Finding(
        "label_in_text",
        "warning",
        what,
        "If it was added together with the label, remove it: new texts will not contain it.",
        sum(inside[label] for _, label, _ in given),
        examples=[quote(source.texts[i]) for i in rows],
    ).with_rows(source, rows)
