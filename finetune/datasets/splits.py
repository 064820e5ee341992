"""Train, validation and test: which row goes where."""

import re
import unicodedata
from collections import Counter, defaultdict
from random import Random

import numpy as np

from finetune.errors import DataError

SPLITS = ("train", "val", "test")


def normalise_text(text: str) -> str:
    """The form under which two texts count as the same: NFKC, casefold, digits to 0, white space folded."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"\d", "0", folded).split())


def grouped_split(texts: list[str], labels: list[str], val_fraction: float, test_fraction: float,
                  seed: int) -> dict[str, list[int]]:
    """All rows, label by label in the wanted shares; rows of the same normalised text stay together.

    A group goes to a side that still has room for it, drawn in proportion to that room: without duplicates this is a
    stratified random split, and with them a repeated text is as likely on each side as any other. The largest groups
    come first, while there is room; one that fits nowhere goes where most is wanting.
    """
    if val_fraction + test_fraction >= 1:
        raise DataError("nothing is left to train on",
                        got=f"val_fraction + test_fraction = {val_fraction + test_fraction}")
    groups: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        groups[normalise_text(text)].append(row)
    by_label: dict[str, list[list[int]]] = defaultdict(list)
    for rows in groups.values():
        by_label[labels[rows[0]]].append(rows)  # a text that stands under two labels goes with its first

    random = Random(seed)
    shares = dict(zip(SPLITS, (1 - val_fraction - test_fraction, val_fraction, test_fraction), strict=True))
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    need = dict.fromkeys(SPLITS, 0.0)
    for label in sorted(by_label):
        members = by_label[label]
        random.shuffle(members)
        members.sort(key=len, reverse=True)
        total = sum(map(len, members))
        # What earlier labels left for rounding is carried on, so that labels of few rows fill the small sides too.
        need = {name: share * total + min(max(need[name], -1), 1) for name, share in shares.items()}
        untrained = True
        for rows in members:
            room = [need[name] if need[name] >= len(rows) else 0 for name in SPLITS]
            side = random.choices(SPLITS, room)[0] if any(room) else max(SPLITS, key=need.get)
            if untrained and rows is members[-1]:
                side = "train"  # a label that is not trained on cannot be learnt
            need[side] -= len(rows)
            parts[side] += rows
            untrained = untrained and side != "train"
    return {name: sorted(rows) for name, rows in parts.items()}


def balanced_split(labels: list[str], val_fraction: float, test_fraction: float, seed: int) -> dict[str, list[int]]:
    """As many rows of each label as the rarest has, shuffled and cut: 1045 / 149 / 300 on the SMS set.

    The protocol of the prior work; the same text may stand on two sides, which the report counts.
    """
    random = np.random.default_rng(seed)
    smallest = min(Counter(labels).values())
    chosen = []
    for label in sorted(set(labels)):
        rows = [row for row, own in enumerate(labels) if own == label]
        chosen += list(random.choice(rows, size=smallest, replace=False))
    order = random.permutation(chosen).tolist()
    train = int(len(order) * (1 - val_fraction - test_fraction))
    val = int(len(order) * val_fraction)
    return {"train": order[:train], "val": order[train:train + val], "test": order[train + val:]}
