"""Split rows into train, validation and test."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from hashlib import blake2b
from itertools import product
from random import Random

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from finetune.errors import DataError

SPLITS = ("train", "val", "test")
FEW_GROUPS = 8  # with at most as many groups, every way to divide them is tried


def fold_text(text: str) -> str:
    """NFKC, casefold, and white space collapsed. Digits are kept: in seq2seq, sources that differ in them differ."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def normalise_text(text: str) -> str:
    """`fold_text` with every digit replaced by 0. Texts to classify count as the same if these forms are equal."""
    return re.sub(r"\d", "0", fold_text(text))


def text_keys(texts: Iterable[str], normalise: Callable[[str], str] = normalise_text) -> np.ndarray:
    """A 64-bit hash (n,) of each normalised text: 8 bytes per row instead of the whole text."""
    digests = (blake2b(normalise(text).encode("utf-8", "replace"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def number_groups(keys: np.ndarray, groups: list[str] | None = None) -> np.ndarray:
    """The number (n,) of each row's group, counted from 0 in the order of first rows.

    Rows with the same key or the same non-empty group name are in one group, and so are rows linked through others.
    """
    _, first, component = np.unique(keys, return_index=True, return_inverse=True)
    if groups:
        names: dict[str, int] = {}
        ids = np.array([names.setdefault(name, len(names)) if name else -1 for name in groups])
        held = np.flatnonzero(ids >= 0)
        edges = coo_matrix(
            (np.ones(len(held)), (component[held], len(first) + ids[held])), shape=(len(first) + len(names),) * 2
        )
        component = connected_components(edges, directed=False)[1][component]
        _, first, component = np.unique(component, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[component]


def grouped_split(
    texts: list[str],
    labels: list[str],
    val_fraction: float,
    test_fraction: float,
    seed: int,
    groups: list[str] | None = None,
    keys: np.ndarray | None = None,
) -> dict[str, list[int]]:
    """A stratified random split of all rows that keeps rows with the same normalised text or group together.

    keys: the texts' hashes (`text_keys`), if already computed. Labels are split one at a time. Each group goes to a
    random part with enough room, with probability proportional to that room; without duplicates this is a stratified
    random split, and with them a repeated text is as likely in each part as any other. The largest groups are placed
    first; a group that fits nowhere goes to the part that lacks most rows. A fraction of 0 gives an empty part. Of
    up to FEW_GROUPS named groups, every way to divide them is tried.
    """
    if val_fraction + test_fraction >= 1:
        raise DataError(
            "no rows are left to train on", got=f"val_fraction + test_fraction = {val_fraction + test_fraction}"
        )
    number = number_groups(text_keys(texts) if keys is None else keys, groups)
    sizes = np.bincount(number).tolist()
    by_label: dict[str, list[int]] = defaultdict(list)
    for group, row in enumerate(np.unique(number, return_index=True)[1].tolist()):
        by_label[labels[row]].append(group)  # a group with several labels counts under that of its first row

    random = Random(seed)
    shares = dict(zip(SPLITS, (1 - val_fraction - test_fraction, val_fraction, test_fraction), strict=True))
    if (
        groups
        and len(sizes) <= FEW_GROUPS
        and (found := _best_sides(number, labels, list(shares.values()), random)) is not None
    ):
        return {name: np.flatnonzero(found[number] == at).tolist() for at, name in enumerate(SPLITS)}
    side_of = np.zeros(len(sizes), dtype=np.int8)
    need = dict.fromkeys(SPLITS, 0.0)
    for label in sorted(by_label):
        members = by_label[label]
        random.shuffle(members)
        members.sort(key=sizes.__getitem__, reverse=True)
        total = sum(sizes[group] for group in members)
        # Carry the rounding remainder over from earlier labels, so that rare labels also reach the small parts.
        need = {name: share * total + min(max(need[name], -1), 1) for name, share in shares.items()}
        untrained = True
        for group in members:
            size = sizes[group]
            room = [need[name] if need[name] >= size else 0 for name in SPLITS]
            side = random.choices(SPLITS, room)[0] if any(room) else max(SPLITS, key=need.__getitem__)
            if untrained and group == members[-1]:
                side = "train"  # every label must occur in training
            need[side] -= size
            side_of[group] = SPLITS.index(side)
            untrained = untrained and side != "train"
    return {name: np.flatnonzero(side_of[number] == at).tolist() for at, name in enumerate(SPLITS)}


def _best_sides(number: np.ndarray, labels: list[str], shares: list[float], random: Random) -> np.ndarray | None:
    """The side (G,) of each of few groups: of all 3^G ways to divide them, the one closest to the shares of every label.

    Each side with a share gets a group, and the training side all labels. None: no way satisfies this.
    """
    label = np.unique(labels, return_inverse=True)[1]
    groups = number.max() + 1
    rows = np.zeros((groups, label.max() + 1))  # rows of each label in each group
    np.add.at(rows, (number, label), 1)
    order = random.sample(range(groups), groups)  # so that the seed breaks ties
    ways = np.array(list(product(range(len(SPLITS)), repeat=groups)))
    held = np.stack([(ways == side) @ rows[order] for side in range(len(SPLITS))], axis=1)  # (ways, sides, labels)
    wanted = np.outer(shares, rows.sum(axis=0))
    distance = ((held - wanted) ** 2 / rows.sum(axis=0)).sum(axis=(1, 2))
    possible = (held[:, 0] > 0).all(axis=1) & ((held.sum(axis=2) > 0) == (np.array(shares) > 0)).all(axis=1)
    if not possible.any():
        return None
    sides = np.empty(groups, dtype=np.int8)
    sides[order] = ways[np.where(possible, distance, np.inf).argmin()]
    return sides


def ordered_split(rows: int, val_fraction: float, test_fraction: float) -> dict[str, list[int]]:
    """Split by position: first the training rows, then the test rows, then the validation rows.

    The protocol of Raschka, Build a Large Language Model (From Scratch), 2024, chapter 7: 935 train, 110 test and 55
    validation rows of 1,100. The same text may occur in several parts; the report counts them.
    """
    val, test = round(rows * val_fraction), round(rows * test_fraction)
    train = max(rows - val - test, 0)
    return {
        "train": list(range(train)),
        "val": list(range(train + test, rows)),
        "test": list(range(train, train + test)),
    }


def time_split(times: np.ndarray, val_fraction: float, test_fraction: float) -> dict[str, list[int]]:
    """Split by time (n,): the oldest rows for training, the newest for the test, those between for validation.

    Rows of equal time stay together, so the shares are met as closely as the times allow.
    """
    order = np.argsort(times, kind="stable")
    starts = np.flatnonzero(np.diff(times[order], prepend=-np.inf))  # indices where a new time begins
    starts = np.append(starts, len(order))
    cuts = [share * len(order) for share in (1 - val_fraction - test_fraction, 1 - test_fraction)]
    train, val = (int(starts[np.abs(starts - cut).argmin()]) for cut in cuts)
    return {name: np.sort(part).tolist() for name, part in zip(SPLITS, np.split(order, [train, val]), strict=True)}


def keep_sides(
    sides: list[str], divide: Callable[[list[int], bool, bool], dict[str, list[int]]]
) -> dict[str, list[int]]:
    """Keep the given val and test rows, and split off a missing val or test part from the rest.

    divide: (rows, whether val is missing, whether test is missing) -> positions in those rows, by part.
    """
    given = {name: [row for row, side in enumerate(sides) if side == name] for name in ("val", "test")}
    rest = [row for row, side in enumerate(sides) if side in ("", "train")]
    if all(given.values()):
        return {"train": rest} | given
    parts = divide(rest, not given["val"], not given["test"])
    return {name: given.get(name) or [rest[position] for position in parts[name]] for name in SPLITS}


def balanced_split(labels: list[str], val_fraction: float, test_fraction: float, seed: int) -> dict[str, list[int]]:
    """Undersample every label to the size of the rarest, shuffle and split: 1045 / 149 / 300 on the SMS set.

    The protocol of earlier work. The same text may occur in several parts; the report counts them.
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
    return {"train": order[:train], "val": order[train : train + val], "test": order[train + val :]}
