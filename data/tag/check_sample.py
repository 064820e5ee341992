"""Measure sample.conll: sizes, names of each kind, and how alike its sentences are."""

import re
import runpy
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHARED = runpy.run_path(str(HERE.parent / "card_figures.py"))
LIMITS = {
    "sentences": (300, float("inf")),
    "without a name": (30, float("inf")),
    "near_duplicates_pct": (0, 2),
    "same_first_two_words": (0, 12),
    "names of two kinds": (5, float("inf")),
}
KINDS = ("organisation", "person", "place")


def read_sample(path):
    sentences = []
    for block in path.read_text(encoding="utf-8").strip("\n").split("\n\n"):
        pairs = [line.split("\t") for line in block.split("\n")]
        for (_, before), (word, tag) in zip([("", "O"), *pairs], pairs, strict=False):
            if not re.fullmatch(rf"O|[BI]-({'|'.join(KINDS)})", tag) or tag[0] == "I" and before[2:] != tag[2:]:
                raise SystemExit(f"{word}: {tag} is no IOB2 tag here")
        sentences.append(pairs)
    return sentences


def names_in(pairs):
    names = []
    for word, tag in pairs:
        if tag[0] == "B":
            names.append([tag[2:], word])
        elif tag[0] == "I":
            names[-1][1] += f" {word}"
    return names


def measure(sentences):
    names = [names_in(pairs) for pairs in sentences]
    texts = [" ".join(word for word, _ in pairs) for pairs in sentences]
    kinds = defaultdict(set)
    for kind, name in (own for part in names for own in part):
        kinds[name].add(kind)
    counts = Counter(kind for part in names for kind, _ in part)
    lengths = sorted(len(pairs) for pairs in sentences)
    return {
        "sentences": len(sentences),
        "words": sum(lengths),
        "words_median": lengths[len(lengths) // 2],
        "words_max": lengths[-1],
        **{f"names, {kind}": counts[kind] for kind in KINDS},
        **{f"different names, {kind}": sum(kind in own for own in kinds.values()) for kind in KINDS},
        "names of two kinds": sum(len(own) > 1 for own in kinds.values()),
        "names of several words": sum(" " in name for part in names for _, name in part),
        "without a name": sum(not part for part in names),
        "same_first_two_words": Counter(tuple(text.split()[:2]) for text in texts).most_common(1)[0][1],
        "near_duplicates_pct": round(float(100 * SHARED["near_duplicates"](texts)), 1),
    }


if __name__ == "__main__":
    SHARED["print_and_check"](lambda: measure(read_sample(HERE / "sample.conll")), LIMITS, HERE / "card.md", __doc__)
