"""Divide labelled rows into train, validation and test, and find what these have in common."""

from collections import Counter

import numpy as np

from finetune.errors import DataError, counted, listed, shorten
from finetune.recipe import Columns, Recipe, Split
from finetune.tables.findings import Finding
from finetune.tables.near_duplicates import NearDuplicates
from finetune.tables.readers import LabelledTexts
from finetune.tables.splits import (
    SPLITS,
    balanced_split,
    grouped_split,
    keep_sides,
    number_groups,
    ordered_split,
    time_split,
)
from finetune.tables.times import parse_times


def divide(recipe: Recipe, source: LabelledTexts, keys: np.ndarray) -> dict[str, list[int]]:
    """The positions of each split's rows. Raises DataError for an empty split, or a label without training rows."""
    parts = split_rows(recipe.split, recipe.columns, source, keys)
    different, labels = len(np.unique(keys)), set(source.every_label)
    for name in SPLITS:
        missing = sorted(labels - {label for i in parts[name] for label in source.labels_of(i)})
        if not parts[name] or (name == "train" and missing):
            merged = recipe.split.protocol == "grouped" and 2 * different <= len(source.texts)
            raise _too_few_rows(name, missing, source, different if merged else None, recipe.columns.group)
    return parts


def split_rows(split: Split, columns: Columns, source: LabelledTexts, keys: np.ndarray) -> dict[str, list[int]]:
    """Each row's split by the recipe's protocol; rows that came with a split keep it.

    If a row may have several labels, it is stratified by the rarest of them.
    """
    strata = strata_of(source)
    if split.protocol != "grouped":
        if source.groups or any(source.sides):
            what = f"split.protocol={split.protocol}"
            raise DataError(
                f"{what} needs a single table without groups or given splits",
                do="Leave columns.group, columns.split, validation and test out, or use split.protocol=grouped.",
            )
        if split.protocol == "ordered":
            return ordered_split(len(source.texts), split.val_fraction, split.test_fraction)
        if split.protocol == "time":
            return time_split(parse_times(source, columns.time or ""), split.val_fraction, split.test_fraction)
        return balanced_split(strata, split.val_fraction, split.test_fraction, split.seed)

    def divide(rows: list[int], val: bool, test: bool) -> dict[str, list[int]]:
        texts, labels = ([part[i] for i in rows] for part in (source.texts, strata))
        return grouped_split(
            texts,
            labels,
            split.val_fraction * val,
            split.test_fraction * test,
            split.seed,
            [source.groups[i] for i in rows] if source.groups else None,
            keys[rows],
        )

    if any(source.sides):
        return keep_sides(source.sides, divide)
    parts = grouped_split(
        source.texts, strata, split.val_fraction, split.test_fraction, split.seed, source.groups, keys
    )
    return train_every_label(source, number_groups(keys, source.groups), parts) if source.many else parts


def strata_of(source: LabelledTexts) -> list[str]:
    """The label that each row is stratified by: its own, or the rarest of several; empty for a row without one."""
    if not source.many:
        return source.labels
    counts = Counter(source.every_label)
    return [
        min(source.labels_of(i), key=lambda label: (counts[label], label), default="") for i in range(len(source.rows))
    ]


def train_every_label(source: LabelledTexts, number: np.ndarray, parts: dict[str, list[int]]) -> dict[str, list[int]]:
    """The same split, but for each label without a training row, the group (n,) of its first row moves to train.

    Rows are never stratified by a label that is not the rarest of any row, so all rows of such a label may be held out.
    """
    learnt = {label for i in parts["train"] for label in source.labels_of(i)}
    for at, group in enumerate(number.tolist()):
        if learnt >= set(source.labels_of(at)):
            continue
        rows = set(np.flatnonzero(number == group).tolist())
        learnt |= {label for i in rows for label in source.labels_of(i)}
        parts = {name: [i for i in own if i not in rows] for name, own in parts.items()}
        parts["train"] = sorted([*parts["train"], *rows])
    return parts


def _too_few_rows(
    split: str, missing: list[str], source: LabelledTexts, texts: int | None, group: str | None
) -> DataError:
    """texts: the number of different texts, if that may be the reason; group: the column of groups."""
    got = listed([f"{shorten(label)} {n}" for label, n in Counter(source.every_label).most_common()])
    fix = "Add rows of these labels, or leave the labels out."
    groups = len(set(source.groups) - {""})
    if 0 < 2 * groups <= len(source.texts):
        got += f"; {counted(groups, 'group')} in column {group!r} in {len(source.texts)} rows"
        fix = (
            "Rows of a group stay in one split, so each split needs its own groups, and train needs groups with every "
            "label: name a column with more groups, or leave out --group."
        )
    elif texts is not None:
        got += f"; {counted(texts, 'different text')} in {len(source.texts)} rows"
        fix = "Texts that differ only in case, digits or white space count as one: add other texts."
    return DataError(f"too few rows: the {split} split has none of {listed(missing)}", got=got, do=fix)


def shared_groups(source: LabelledTexts, parts: dict) -> list[Finding]:
    """Groups whose rows are in several of the given splits."""
    found, group = [], np.array(source.groups)
    for name, others in (("val", ["train"]), ("test", ["train", "val"])) if source.groups else ():
        own, seen = group[parts[name]], group[[i for other in others for i in parts[other]]]
        if both := int((np.isin(own, seen) & (own != "")).sum()):
            what = f"{both} of {len(own)} {name} rows have a group that is also in {' or '.join(others)}"
            found.append(
                Finding(
                    "shared_groups",
                    "warning",
                    what,
                    "Your split is kept; put all rows of a group into one split, or the score is too optimistic.",
                    both,
                )
            )
    return found


def near_train(near: NearDuplicates, keys: np.ndarray, parts: dict[str, list[int]]) -> np.ndarray:
    """Whether each test row (n,) is a near, but not exact, duplicate of a training row."""
    test, train = parts["test"], parts["train"]
    return np.isin(near.cluster[test], near.cluster[train]) & ~np.isin(keys[test], keys[train])


def near_train_findings(near: np.ndarray) -> list[Finding]:
    """near: (test rows,) whether each is a near duplicate of a training row."""
    if not near.any():
        return []
    what = f"{near.sum():,} of {len(near):,} test rows are near duplicates of a training row"
    return [
        Finding(
            "test_rows_near_train",
            "warning",
            what,
            "They inflate the score: keep one of each, or group them with --group COL.",
            int(near.sum()),
        )
    ]
