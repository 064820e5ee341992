"""What the samples' scripts share: a measure of repetition, and figures that stand in a card. Loaded by path."""

import argparse
import json

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->"


def near_duplicates(texts, threshold=0.8):
    """Share of texts that have another one at this cosine or above (character 2-4-grams)."""
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform(texts)
    cosine = (vectors @ vectors.T).toarray()
    np.fill_diagonal(cosine, 0)
    return (cosine.max(axis=1) >= threshold).mean()


def print_and_check(figures, limits, card, description):
    """Print the figures; with --write-card put them into the card, with --check hold card and limits against them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--write-card", action="store_true", help="rewrite the figures block of card.md")
    parser.add_argument("--check", action="store_true", help="exit 1 if card.md differs or a limit is broken")
    args = parser.parse_args()
    figures = figures()
    print(json.dumps(figures, indent=2))
    text = card.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    table = "| figure | value |\n|---|---|\n" + "".join(f"| `{k}` | {v} |\n" for k, v in figures.items())
    wanted = before + BEGIN + table + END + after
    if args.write_card:
        card.write_text(wanted, encoding="utf-8", newline="\n")
    faults = [f"{k} is not in {low}..{high}" for k, (low, high) in limits.items() if not low <= figures[k] <= high]
    if text != wanted and not args.write_card:
        faults.append("card.md does not hold these figures: run with --write-card")
    if args.check and faults:
        raise SystemExit("\n".join(faults))
