"""Each check finds what was put into a clean table, and nothing in the clean one."""

import random

import numpy as np
import pytest

from finetune.errors import DataError
from finetune.tables.checks import check_rows, letter_counts, refuse_meaningless
from finetune.tables.near_duplicates import find_near_duplicates
from finetune.tables.readers import LabelledTexts, LeftOut
from finetune.tables.splits import text_keys

WORDS = [
    "apple",
    "river",
    "stone",
    "cloud",
    "grass",
    "tower",
    "candle",
    "window",
    "garden",
    "silver",
    "winter",
    "morning",
    "paper",
    "forest",
    "hammer",
    "kettle",
    "ladder",
    "mirror",
    "needle",
    "orange",
    "pencil",
    "quarry",
    "ribbon",
    "saddle",
    "teapot",
    "violet",
    "walnut",
    "yellow",
    "zipper",
]
LONG = "a rather long text that is here twice, nearly"


def clean(rows: int = 240) -> LabelledTexts:
    """Different texts under two labels; row numbers are twice the positions."""
    source = random.Random(0)
    texts = [" ".join(source.sample(WORDS, 7)) for _ in range(rows)]
    return LabelledTexts([2 * i for i in range(rows)], texts, ["yes", "no"] * (rows // 2), [], "text", "label")


def found(source: LabelledTexts, **more) -> dict:
    keys = text_keys(source.texts)
    near = find_near_duplicates(source.texts, keys)
    return {finding.check: finding for finding in check_rows(source, keys, near, **more)}


def test_nothing_is_found_in_a_clean_table():
    assert found(clean(), lengths=np.full(240, 9), context=9) == {}
    refuse_meaningless(clean())


def put(source: LabelledTexts, at: dict[int, str] = (), labels: dict[int, str] = ()) -> LabelledTexts:
    for i, text in dict(at).items():
        source.texts[i] = text
    for i, label in dict(labels).items():
        source.labels[i] = label
    return source


@pytest.mark.parametrize(
    "change, check, level, count, words",
    [
        ({"labels": {0: "Yes", 2: "yes ", 4: "YES"}}, "label_spelling", "warning", 3, "spelled in several ways"),
        (
            {"labels": {0: "NaN", 2: "n/a", 5: "None", 7: "NaN"}},
            "missing_words",
            "warning",
            4,
            "4 rows labelled 'NaN', 'n/a', 'None' look like missing labels; the model learns them as a class",
        ),
        ({"labels": {0: "none", 2: "NONE"}}, "missing_words", "note", 2, "labelled 'none', 'NONE' look like"),
        ({"labels": {0: "maybe", 2: "maybe"}}, "rare_labels", "warning", 1, "fewer than 10 rows"),
        ({"labels": {i: "yes" for i in range(1, 220)}}, "imbalance", "warning", 230, "96% of the rows are 'yes'"),
        ({"labels": {i: "yes" for i in range(1, 160)}}, "imbalance", "note", 200, "83% of the rows"),
        (
            {"at": {2: "SAME text 1", 4: "same text 2", 6: "same  text 3"}},
            "exact_duplicates",
            "note",
            2,
            "2 rows repeat",
        ),
        (
            {"at": {2: "same text", 3: "Same Text"}},
            "conflicting_labels",
            "warning",
            1,
            "1 texts have more than one label",
        ),
        ({"at": {2: LONG + " so", 4: LONG}}, "near_duplicates", "note", 2, "near duplicates"),
        ({"at": {2: LONG + " so", 5: LONG}}, "near_duplicates_with_other_label", "warning", 1, "different labels"),
        ({"at": dict.fromkeys(range(200), "мама мыла раму")}, "other_alphabet", "warning", None, "not Latin"),
        (
            {"at": {0: "caf\u00c3\u00a9", 1: "lost \ufffd letter", 2: "it\u00e2\u20ac\u2122s"}},
            "broken_characters",
            "warning",
            3,
            "wrongly decoded",
        ),
        ({"at": {0: "nul\0", 1: "tab\tis fine"}}, "control_characters", "note", 1, "control"),
        ({"at": {0: "win \U0001f600"}}, "emoji", "note", 1, "1 of 240 texts contain emoji"),
        (
            {"at": {i: f"[yes] {WORDS[i % 29]} {WORDS[i % 23]} {i * 'k'}" for i in range(0, 100, 2)}},
            "label_in_text",
            "warning",
            50,
            "'yes' occurs in 42% of the texts with that label and in 0.0%",
        ),
    ],
)
def test_each_planted_problem_is_found(change, check, level, count, words):
    finding = found(put(clean(), **change))[check]
    assert finding.level == level and words in finding.what and finding.do
    assert count is None or finding.count == count


def test_rows_are_named_by_their_number_in_the_file():
    finding = found(put(clean(), {7: "caf\u00c3\u00a9"}))["broken_characters"]
    assert finding.rows == [14] and finding.examples == ["'caf\u00c3\u00a9'"]
    assert finding.to_json()["rows"] == [14] and finding.places == ["row 14"]
    assert finding.examples_by_place == ["row 14: 'caf\u00c3\u00a9'"]


def test_rows_of_several_files_are_named_with_their_file():
    source, more = clean(), put(clean(), {3: "caf\u00c3\u00a9"})
    source.name, more.name = "my.csv", "test.csv"
    source.left_out, more.left_out = [LeftOut("empty text", 2, [1, 5])], [LeftOut("empty text", 1, [7])]
    source.extend(more, "test")
    checks = found(source)
    assert checks["broken_characters"].places == ["test.csv row 6"]
    assert checks["empty_text"].places == ["my.csv row 1", "my.csv row 5", "test.csv row 7"]
    assert list(map(str, source.left_out)) == [
        "my.csv: 2 rows left out: empty text (row 1, row 5)",
        "test.csv: 1 row left out: empty text (row 7)",
    ]


def test_dropped_rows_and_cut_texts_are_counted():
    source = clean()
    source.left_out = [LeftOut("empty text", 1, [3]), LeftOut("empty label", 30, [5, 9, 11])]
    lengths = np.full(240, 10)
    lengths[[3, 5, 7]] = 30, 20, 10
    checks = found(source, lengths=lengths, context=15)
    assert (checks["empty_text"].level, checks["empty_label"].level) == ("note", "warning")
    assert "30 of 271 rows are left out" in checks["empty_label"].what and checks["empty_label"].rows == [5, 9, 11]
    cut = checks["cut_texts"]
    assert cut.count == 2 and cut.level == "note" and cut.rows == [6, 10]
    assert f"{(15 + 5) / lengths.sum():.1%} of all tokens" in cut.what


def test_columns_that_mean_nothing_stop():
    swapped = clean()
    swapped.texts, swapped.labels = swapped.labels, swapped.texts
    swapped.text_column, swapped.label_column = "label", "text"
    with pytest.raises(DataError, match="column 'text' has 240 different values.*swapped: --text text --label label"):
        refuse_meaningless(swapped)
    same = put(clean(), dict.fromkeys(range(240), "the same"))
    with pytest.raises(DataError, match="'text' has the same text in all 240 rows.*--text NAME"):
        refuse_meaningless(same)
    few = put(clean(), {i: f"text {i % 3}" for i in range(240)})
    refuse_meaningless(few)
    assert found(few)["few_texts"].level == "warning"
    assert list(found(swapped))[0] == "many_labels"  # the gravest first


def test_letters_of_alphabets():
    assert letter_counts(["abc", "éß", "мы 12", "日本 x"]) == (3 + 2 + 2 + 3, 2 + 2)
