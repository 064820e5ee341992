"""Single surface features that separate a label from the others: white space, punctuation, case, length.

Such a clue is often an artefact of the table: its labels come from different sources, while new texts of all labels will
come from one. A model learns the clue, and its score falls on texts without it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from finetune.tables.findings import Finding, quote, sample_of
from finetune.tables.readers import LabelledTexts
from finetune.tables.white_space import INVISIBLE, fold_white_space

DOUBLED = re.compile(r"(?<=\S)[^\S\n]{2,}(?=\S)")
FOLD = "To train and predict without such differences, add --set columns.white_space=fold"
LEAST_ROWS = 10  # minimum rows of the label, and of the others, to try a rule
WHITE_SPACE_GAP = 0.2  # minimum difference of the shares for white space to be a clue
STYLE_GAP = 0.8  # punctuation, case and length often do belong to a label: only a rule that nearly decides is reported


@dataclass(frozen=True)
class _Rule:
    """what: the end of the sentence "the text ..."."""

    what: str
    holds: Callable[[str], bool]


WHITE_SPACE = (
    _Rule("ends with white space", lambda text: text[-1:].isspace()),
    _Rule("begins with white space", lambda text: text[:1].isspace()),
    _Rule("has two or more spaces between words", lambda text: DOUBLED.search(text) is not None),
    _Rule("has invisible characters", lambda text: INVISIBLE.search(text) is not None),
    _Rule("has line breaks", lambda text: "\n" in text.strip() or "\r" in text.strip()),
)
STYLE = (
    _Rule("ends with a full stop", lambda text: text.endswith(".")),
    _Rule("ends with a question mark", lambda text: text.endswith("?")),
    _Rule("ends with an exclamation mark", lambda text: text.endswith("!")),
    _Rule("has quotation marks", lambda text: '"' in text or "\u201c" in text),
    _Rule("has no capital letter", lambda text: text == text.lower()),
    _Rule("has no lower-case letter", lambda text: text == text.upper()),
    _Rule("begins with a capital letter", lambda text: text[:1].isupper()),
)


def giveaways(source: LabelledTexts) -> list[Finding]:
    """At most one finding of each kind: the rule that best separates a label from the others."""
    at = sample_of(source)
    texts = [source.texts[i] for i in at]
    pairs = [(row, label) for row, i in enumerate(at) for label in source.labels_of(i)]
    row = np.array([place for place, _ in pairs], dtype=int)
    names, label = np.unique(np.array([name for _, name in pairs], dtype=object), return_inverse=True)
    size = np.bincount(label)
    usual = (size >= LEAST_ROWS) & (len(at) - size >= LEAST_ROWS)
    if not usual.any():
        return []
    found = []
    plain = list(map(fold_white_space, texts))
    lengths = np.array(list(map(len, plain)))
    for check, own_texts, rules, least in (
        ("white_space_clue", texts, WHITE_SPACE, WHITE_SPACE_GAP),
        ("style_clue", plain, (*STYLE, *_length_rules(lengths[row], label, len(names))), STYLE_GAP),
    ):
        best: tuple[float, str, np.ndarray, int] = (least, "", np.zeros(0), 0)
        for rule in rules:
            holds = np.fromiter(map(rule.holds, own_texts), dtype=bool, count=len(texts))
            own = np.bincount(label, weights=holds[row], minlength=len(names))
            gap = np.where(usual, own / size - (holds.sum() - own) / np.maximum(len(at) - size, 1), 0)
            if check == "white_space_clue":  # absence tells as much; of two labels, name the one that has it
                gap = np.abs(gap) + 1e-9 * (gap > 0)
            if gap.max() > best[0]:
                best = (float(gap.max()), rule.what, holds, int(gap.argmax()))
        if best[1]:
            own_rows = np.isin(np.arange(len(at)), row[label == best[3]])
            found.append(_finding(source, np.array(at), check, best[1], best[2], own_rows, names[best[3]]))
    return found


def _finding(
    source: LabelledTexts, at: np.ndarray, check: str, what: str, holds: np.ndarray, own: np.ndarray, name: str
) -> Finding:
    said = (
        f"the text {what} in {holds[own].mean():.0%} of the rows labelled {quote(name, 30)} and in "
        f"{holds[~own].mean():.0%} of the others"
    )
    if source.sides and (tested := np.array([source.sides[i] == "test" for i in at]) & own).any():
        said += f"; in the test rows of that label, in {holds[tested].mean():.0%}"
    shown = at[holds & (own if holds[own].mean() > holds[~own].mean() else ~own)][:3]
    white = check == "white_space_clue"
    return Finding(
        check,
        "warning" if white else "note",
        said,
        FOLD if white else "If new texts will not differ in this way, make the texts of all labels alike.",
        int(holds.sum()),
        examples=[quote(source.texts[i]) if len(source.texts[i]) < 60 else _end(source.texts[i]) for i in shown],
    ).with_rows(source, shown)


def _end(text: str) -> str:
    """The end of a long text, where most clues occur."""
    return f"...{text[-50:]!r}"


def _length_rules(lengths: np.ndarray, label: np.ndarray, labels: int) -> list[_Rule]:
    """Rules "at least" and "at most" the median number of characters of each of up to 20 labels.

    lengths, label: one entry for every pair of a row and one of its labels.
    """
    if labels > 20:
        return []
    middles = sorted({int(np.median(lengths[label == number])) for number in range(labels)})
    cuts = [(one + other) // 2 for one, other in zip(middles, middles[1:], strict=False)]
    rules = [_Rule(f"has more than {cut:,} characters", partial(_is_longer, cut)) for cut in cuts]
    return rules + [_Rule(f"has at most {cut:,} characters", partial(_is_within, cut)) for cut in cuts]


def _is_longer(characters: int, text: str) -> bool:
    return len(text) > characters


def _is_within(characters: int, text: str) -> bool:
    return len(text) <= characters
