"""Measure sample.tsv (label<TAB>text): size, repetition, and how hard it is for simple classifiers."""

import re
import runpy
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline

HERE = Path(__file__).resolve().parent
SHARED = runpy.run_path(str(HERE.parent / "card_figures.py"))
LIMITS = {
    "rows": (800, float("inf")),
    "near_duplicates_pct": (0, 2),
    "masked_form_repeats_pct": (0, 2),
    "tfidf_lr_accuracy_pct": (85, 97),
}


def read_sample(path):
    header, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    bad = [n for n, line in enumerate(lines, 2) if not re.fullmatch(r"(ham|spam)\t[^\t\r]*\S", line)]
    if header != "label\ttext" or bad:
        raise SystemExit(f"{path.name}: the header or one of these lines is not label<TAB>text: {bad}")
    return np.array([line.startswith("spam\t") for line in lines]), [line.split("\t")[1] for line in lines]


def masked_form_repeats(texts):
    """Share of messages that equal another one once digits and capitalised non-initial words are masked."""
    named = (re.sub(r"(?<=\s)[A-Z][\w'’]*", "@", text) for text in texts)
    forms = [" ".join(re.sub(r"\d", "0", text).casefold().split()) for text in named]
    counts = Counter(forms)
    return np.mean([counts[form] > 1 for form in forms])


def measure(spam, texts):
    lengths = np.array([len(text) for text in texts])
    contact = np.array([bool(re.search(r"\.(example|test)\b|07700 900|555-01", text)) for text in texts])
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10, class_weight="balanced", max_iter=1000)
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = cross_validate(model, texts, spam, cv=folds, scoring=("accuracy", "f1"))
    shares = {
        "spam": spam.mean(),
        "near_duplicates": SHARED["near_duplicates"](texts),
        "masked_form_repeats": masked_form_repeats(texts),
        "majority_class_accuracy": max(spam.mean(), 1 - spam.mean()),
        "best_length_cut_accuracy": max(((lengths > cut) == spam).mean() for cut in range(lengths.max())),
        "has_link_or_number_accuracy": (contact == spam).mean(),
    }
    for name, values in (("accuracy", scores["test_accuracy"]), ("spam_f1", scores["test_f1"])):
        shares |= {
            f"tfidf_lr_{name}": values.mean(),
            f"tfidf_lr_{name}_fold_min": values.min(),
            f"tfidf_lr_{name}_fold_max": values.max(),
        }
    return {
        "rows": len(texts),
        "spam_rows": int(spam.sum()),
        "length_median_chars": float(np.median(lengths)),
        "length_max_chars": int(lengths.max()),
        **{f"{name}_pct": round(100 * float(share), 1) for name, share in shares.items()},
    }


if __name__ == "__main__":
    SHARED["print_and_check"](lambda: measure(*read_sample(HERE / "sample.tsv")), LIMITS, HERE / "card.md", __doc__)
