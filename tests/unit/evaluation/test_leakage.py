"""Texts on both sides of a split."""

from finetune.evaluation.leakage import OverlapCounts, clean_rows, overlap

SPLITS = {
    "train": ["Win 10 now", "see you", "see you"],
    "val": ["SEE  you", "new"],
    "test": ["see you", "win 10 NOW", "new", "other", "other"],
}


def fold(text):
    return " ".join(text.casefold().split())


def test_overlap_counts_exact_and_normalised_rows():
    counts = overlap(SPLITS, fold)
    assert counts == {
        "val_in_train": OverlapCounts(exact=0, normalised=1, n=2),
        "test_in_train": OverlapCounts(exact=1, normalised=2, n=5),
        "test_in_val": OverlapCounts(exact=1, normalised=2, n=5),
    }


def test_clean_rows_are_those_seen_nowhere_else():
    mask = clean_rows(SPLITS["train"] + SPLITS["val"], SPLITS["test"], fold)
    assert mask.dtype == bool and mask.tolist() == [False, False, False, True, True]


def test_no_test_rows_give_an_empty_mask():
    assert clean_rows(["a"], [], fold).shape == (0,)
