"""Which row goes where: shares, seeds, and no text on two sides."""

import random
from collections import Counter
from itertools import product

import numpy as np
import pytest

from finetune.errors import DataError
from finetune.tables.splits import (
    SPLITS,
    balanced_split,
    grouped_split,
    keep_sides,
    normalise_text,
    number_groups,
    ordered_split,
    text_keys,
    time_split,
)


@pytest.mark.parametrize(
    "one, other",
    [
        ("\uff26\uff32\uff25\uff25 \uff15\uff10", "free 50"),  # full width: NFKC
        ("ﬁnd", "FIND"),  # a ligature
        ("Straße", "STRASSE"),  # casefold, where lower() would keep the sharp s
        ("Call 08001234567 now", "call 99999999999 NOW"),
        ("win £100", "win £999"),
        ("٣ items", "3 items"),  # any script's digits
        ("  a\t\tb\n c\u00a0d ", "a b c d"),
        ("a\u3000b", "A B"),
        ("é", "e\u0301"),
    ],
)
def test_texts_that_count_as_the_same(one, other):
    assert normalise_text(one) == normalise_text(other)


@pytest.mark.parametrize(
    "one, other", [("call 10", "call 100"), ("a b", "ab"), ("see you!", "see you"), ("café", "cafe"), ("", "0")]
)
def test_texts_that_stay_apart(one, other):
    assert normalise_text(one) != normalise_text(other)


def test_normalising_again_changes_nothing():
    texts = ["Straße 12", "\uff21\uff22 ", "İstanbul", "ΑΣ ας", "a1\u00b2", "", "\u00a0"]
    assert all(normalise_text(normalise_text(text)) == normalise_text(text) for text in texts)


def duplicated(seed, rows=400):
    """Texts of which many are the same but for case and digits, and their labels."""
    source = random.Random(seed)
    texts, labels = [], []
    while len(texts) < rows:
        base = f"{source.choice('abcdefghijkl')}{source.choice('mnopqrst')} {source.choice('uvwxyz')}"
        for _ in range(source.choice([1, 1, 1, 2, 5])):
            texts.append(f"{base if source.random() < 0.5 else base.upper()} {source.randint(0, 9)}")
            labels.append("rare" if base < "c" else "common" if base < "j" else "other")
    return texts, labels


@pytest.mark.parametrize("seed", range(12))
def test_grouped_uses_all_rows_keeps_shares_and_parts_no_group(seed):
    texts, labels = duplicated(seed)
    parts = grouped_split(texts, labels, 0.1, 0.2, seed)
    assert tuple(parts) == SPLITS
    assert sorted(row for rows in parts.values() for row in rows) == list(range(len(texts)))
    sides = [{normalise_text(texts[row]) for row in parts[name]} for name in SPLITS]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    largest = max(Counter(map(normalise_text, texts)).values())
    for label, total in Counter(labels).items():
        for name, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
            held = sum(labels[row] == label for row in parts[name])
            assert abs(held - share * total) <= largest + 1, (label, name, held, share * total)


def test_grouped_shares_are_exact_to_a_row_without_duplicates():
    labels = ["spam" if i % 8 == 0 else "ham" for i in range(5000)]
    parts = grouped_split([letters(i) for i in range(5000)], labels, 0.1, 0.2, 1)
    for label, total in (("spam", 625), ("ham", 4375)):
        found = [sum(labels[row] == label for row in parts[name]) for name in SPLITS]
        assert all(abs(n - share * total) <= 1 for n, share in zip(found, (0.7, 0.1, 0.2), strict=True)), found


def letters(number):
    """A word of letters alone, another for each number."""
    return "".join(chr(97 + number // 26**power % 26) for power in range(3))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("label_of_the_group", ["ham", "spam"])
def test_grouped_keeps_the_shares_with_one_text_in_three_of_ten_rows(seed, label_of_the_group):
    source = random.Random(seed)
    rows = [("the same", label_of_the_group)] * 300 + [(letters(i), ("ham", "spam")[i % 2]) for i in range(700)]
    source.shuffle(rows)
    texts, labels = zip(*rows, strict=True)
    parts = grouped_split(texts, labels, 0.1, 0.2, seed)
    assert [len(parts[name]) for name in SPLITS] == pytest.approx([700, 100, 200], abs=2)
    assert {texts[row] for row in parts["train"]} >= {"the same"}
    assert not {"the same"} & {texts[row] for name in ("val", "test") for row in parts[name]}


@pytest.mark.parametrize("seed", range(12))
def test_grouped_shares_are_near_where_no_group_is_large(seed):
    texts, labels = duplicated(seed, rows=3000)
    texts = [f"{text} {letters(i // 3)}" for i, text in enumerate(texts)]  # in groups of three at most
    parts = grouped_split(texts, labels, 0.1, 0.2, seed)
    for label, total in Counter(labels).items():
        found = [sum(labels[row] == label for row in parts[name]) for name in SPLITS]
        assert found == pytest.approx([0.7 * total, 0.1 * total, 0.2 * total], abs=4), label


def test_grouped_without_duplicates_is_drawn_at_random():
    """Each row's chance of a side is that side's share, wherever in the file it stands, and sides differ by seed."""
    texts, labels = [letters(i) for i in range(60)], [("a", "b")[i % 2] for i in range(60)]
    where = Counter(
        (name, row // 10)
        for seed in range(300)
        for name, rows in grouped_split(texts, labels, 0.1, 0.2, seed).items()
        for row in rows
    )
    for tenth in range(6):  # 3000 draws: a standard deviation is below 0.01
        found = [where[name, tenth] / 3000 for name in SPLITS]
        assert found == pytest.approx([0.7, 0.1, 0.2], abs=0.04)


def test_grouped_draws_from_few_rows_too():
    splits = [grouped_split(list("abcd"), ["x"] * 4, 0.1, 0.2, seed) for seed in range(400)]
    tested = Counter(row for parts in splits for row in parts["test"])
    assert [tested[row] / 400 for row in range(4)] == pytest.approx([0.25] * 4, abs=0.1)


def test_grouped_puts_repeated_texts_on_all_sides_in_their_share():
    """A test without the texts that come twice would not be a sample of the file."""
    texts = [letters(i // 2 if i < 400 else i) for i in range(1000)]
    counts = Counter()
    for seed in range(20):
        parts = grouped_split(texts, ["a"] * 1000, 0.1, 0.2, seed)
        counts += Counter({name: sum(row < 400 for row in rows) for name, rows in parts.items()})
    assert [counts[name] / 8000 for name in SPLITS] == pytest.approx([0.7, 0.1, 0.2], abs=0.03)


def test_grouped_trains_on_every_label_and_fills_small_sides_over_labels():
    few = [letters(i) for i in range(80)]
    parts = grouped_split(few, [f"label {i % 20}" for i in range(80)], 0.1, 0.2, 0)
    assert [len(parts[name]) for name in SPLITS] == pytest.approx([56, 8, 16], abs=2)
    for rows in (1, 2):
        labels = [f"label {i // rows}" for i in range(80)]
        for seed in range(10):
            parts = grouped_split(few, labels, 0.1, 0.2, seed)
            assert {labels[row] for row in parts["train"]} == set(labels)


def test_grouped_keeps_a_text_under_two_labels_together():
    texts = ["same text", "SAME TEXT"] * 10 + [f"word {chr(97 + i)}" for i in range(20)]
    labels = ["a", "b"] * 20
    parts = grouped_split(texts, labels, 0.2, 0.2, 0)
    assert [sum(row < 20 for row in parts[name]) for name in SPLITS].count(0) == 2


def test_grouped_is_a_function_of_its_seed():
    texts, labels = duplicated(3)
    splits = [grouped_split(texts, labels, 0.1, 0.2, seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


@pytest.mark.parametrize("val, test", [(0.5, 0.5), (0.9, 0.2)])
def test_grouped_leaves_something_to_train_on(val, test):
    with pytest.raises(DataError, match="no rows are left to train on"):
        grouped_split(["a", "b"], ["x", "y"], val, test, 0)


def test_balanced_gives_the_prior_works_sizes():
    labels = ["ham"] * 4827 + ["spam"] * 747
    random.Random(0).shuffle(labels)
    parts = balanced_split(labels, 0.1, 0.2, 123)
    assert [len(parts[name]) for name in SPLITS] == [1045, 149, 300]
    used = [row for rows in parts.values() for row in rows]
    assert len(set(used)) == 1494 and Counter(labels[row] for row in used) == {"ham": 747, "spam": 747}
    for name in SPLITS:
        share = sum(labels[row] == "spam" for row in parts[name]) / len(parts[name])
        assert 0.4 < share < 0.6
    assert balanced_split(labels, 0.1, 0.2, 123) == parts != balanced_split(labels, 0.1, 0.2, 124)


def test_balanced_cuts_every_class_to_the_rarest():
    labels = ["a"] * 50 + ["b"] * 20 + ["c"] * 31
    used = [labels[row] for rows in balanced_split(labels, 0.2, 0.2, 1).values() for row in rows]
    assert Counter(used) == {"a": 20, "b": 20, "c": 20}


def test_keys_are_equal_where_the_normalised_texts_are():
    texts, _ = duplicated(1)
    keys = text_keys([*texts, "lone \ud800 surrogate"])
    normal = [normalise_text(text) for text in texts]
    assert len(set(keys.tolist())) == len(set(normal)) + 1 and keys.nbytes == 8 * (len(texts) + 1)
    assert all((keys[i] == keys[0]) == (normal[i] == normal[0]) for i in range(len(texts)))


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_what_texts_and_names_tie_together(seed):
    """Against walking from row to row."""
    source = random.Random(seed)
    texts = [str(source.choice("abcdefgh") * source.randint(1, 9)) for _ in range(60)]
    names = [source.choice(["", "", "x", "y", *"0123456789"]) for _ in texts]
    number = number_groups(text_keys(texts), names)
    expected, found = {}, 0
    for start in range(len(texts)):
        if start in expected:
            continue
        todo = [start]
        while todo:
            row = todo.pop()
            if row not in expected:
                expected[row] = found
                todo += [
                    other
                    for other in range(len(texts))
                    if texts[other] == texts[row] or (names[row] and names[other] == names[row])
                ]
        found += 1
    assert number.tolist() == [expected[row] for row in range(len(texts))]


def test_grouped_parts_no_named_group():
    texts, labels = duplicated(2)
    source = random.Random(0)
    names = [f"person {source.randint(0, 40)}" if source.random() < 0.3 else "" for _ in texts]
    parts = grouped_split([f"{text} {letters(i)}" for i, text in enumerate(texts)], labels, 0.1, 0.2, 0, names)
    sides = [{names[row] for row in parts[name]} - {""} for name in SPLITS]
    assert all(sides) and not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert sorted(row for rows in parts.values() for row in rows) == list(range(len(texts)))


def test_a_share_of_nothing_gets_nothing():
    texts, labels = duplicated(4)
    for seed in range(20):
        parts = grouped_split(texts, labels, 0, 0.2, seed)
        assert not parts["val"] and len(parts["test"]) == pytest.approx(0.2 * len(texts), abs=10)


def test_rows_that_came_on_a_side_stay_there():
    asked = []

    def divide(rows, val, test):
        asked.append((rows, val, test))
        return {"train": [0], "val": [1] if val else [], "test": [2] if test else []}

    assert keep_sides(["", "test", "val", "train"], divide) == {"train": [0, 3], "val": [2], "test": [1]}
    assert not asked
    assert keep_sides(["", "test", "", "train"], divide) == {"train": [0], "val": [2], "test": [1]}
    assert keep_sides(["val", "", "", "", "val"], divide) == {"train": [1], "val": [0, 4], "test": [3]}
    assert asked == [([0, 2, 3], True, False), ([1, 2, 3], False, True)]


def test_ordered_gives_the_books_sizes_and_keeps_the_order():
    parts = ordered_split(1100, val_fraction=0.05, test_fraction=0.1)
    assert parts == {"train": list(range(935)), "test": list(range(935, 1045)), "val": list(range(1045, 1100))}
    assert all(sum(map(len, ordered_split(n, 0.3, 0.6).values())) == n for n in range(12))


def test_few_groups_are_divided_as_near_to_the_shares_as_any_way():
    """Six people wrote all rows; no way to give each person a side is nearer to the shares of each label."""
    source = random.Random(3)
    people = [source.choice("aabbbcdeef") for _ in range(300)]
    labels = [source.choice(["spam", "ham", "ham"]) if person != "a" else "spam" for person in people]
    texts = [f"text {'x' * i}" for i in range(300)]
    parts = grouped_split(texts, labels, 0.1, 0.2, 1, people)
    sides = {name: {people[row] for row in rows} for name, rows in parts.items()}
    assert all(sides.values()) and sum(map(len, sides.values())) == 6, "each person on one side"

    def distance(chosen: dict[str, str]) -> float:
        return sum(
            (
                sum(1 for person, label in zip(people, labels, strict=True) if chosen[person] == side and label == own)
                - share * n
            )
            ** 2
            / n
            for own, n in Counter(labels).items()
            for side, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True)
        )

    found = distance({person: side for side, group in sides.items() for person in group})
    for way in product(SPLITS, repeat=6):
        chosen = dict(zip("abcdef", way, strict=True))
        trained = {label for person, label in zip(people, labels, strict=True) if chosen[person] == "train"}
        if set(way) == set(SPLITS) and trained == set(labels):
            assert distance(chosen) >= found - 1e-9


def test_by_time_the_oldest_rows_train_and_the_newest_test():
    times = np.array([5.0, 1, 1, 9, 3, 9, 9, 7, 2, 4])
    parts = time_split(times, 0.2, 0.3)
    assert sorted(sum(parts.values(), [])) == list(range(10))
    latest = {name: max(times[rows]) for name, rows in parts.items()}
    first = {name: min(times[rows]) for name, rows in parts.items()}
    assert latest["train"] < first["val"] and latest["val"] < first["test"]
    assert [len(parts[name]) for name in SPLITS] == [5, 2, 3]


def test_rows_of_one_time_stay_on_one_side():
    parts = time_split(np.array([0.0] * 65 + [1.0] * 15 + [2.0] * 20), 0.1, 0.2)
    assert [len(parts[name]) for name in SPLITS] == [65, 15, 20]
