"""Text and label columns: found by name, by content, or as they were named; rows that miss one are counted."""

import pytest

from finetune.errors import DataError, counted, listed, shorten
from finetune.tables.readers import (
    LABEL_NAMES,
    TEXT_NAMES,
    find_column,
    find_columns,
    join_cells,
    read_labelled,
    text_chunks,
)


@pytest.mark.parametrize(
    "names, wanted, index",
    [
        (["id", "text"], None, 1),
        (["id", " Message "], None, 1),
        (["content", "text"], None, 1),
        (["v1", "v2"], None, 1),
        (["text", "body"], "body", 1),
        (["", "", "text"], None, 2),
    ],
)
def test_a_column_is_found(tmp_path, names, wanted, index):
    assert find_column(names, wanted, TEXT_NAMES, "text", tmp_path) == index


@pytest.mark.parametrize(
    "names, wanted, message",
    [
        (["id", "texts"], "text", "no column 'text'; got id, texts; did you mean 'texts'"),
        (["id", "x"], None, "no text column recognised by its name; got id, x; known: text, message"),
        (["text", "x", "text"], None, "2 columns are called 'text'"),
        (["x", "x"], "x", "2 columns are called 'x'"),
        (["id", "Text"], "text", "no column 'text'.*did you mean 'Text'"),
        (["text", "label"], "TEXT", "no column 'TEXT'.*did you mean 'text'"),
    ],
)
def test_a_column_that_is_not_there_or_there_twice_is_refused(tmp_path, names, wanted, message):
    with pytest.raises(DataError, match=message):
        find_column(names, wanted, TEXT_NAMES, "text", tmp_path)
    assert set(TEXT_NAMES).isdisjoint(LABEL_NAMES)


def test_long_lists_are_cut():
    names = [f"n{i}" for i in range(20)]
    assert listed(names) == "n0, n1, n2, n3, n4, n5, n6, n7 and 12 more"
    assert listed(names[:8]) == "n0, n1, n2, n3, n4, n5, n6, n7" and listed([]) == ""
    assert listed(["x" * 5000, "y"]) == "x" * 87 + "..., y"
    assert shorten("a \n b") == "a b" and shorten("a" * 60) == "a" * 60 and shorten("ab" * 5000) == "ab" * 28 + "a..."
    assert shorten(" " * 5000 + "a") == "a" and shorten("a" + " " * 5000 + "a") == "a..."


def test_a_number_agrees_with_its_noun():
    assert [counted(n, "row") for n in (0, 1, 1234)] == ["0 rows", "1 row", "1,234 rows"]
    assert counted(2, "entity", "entities") == "2 entities"


def test_rows_without_text_or_label_are_counted_and_the_others_keep_their_numbers(tmp_path):
    (tmp_path / "my.csv").write_text("label,text\nham,a\nspam,  \n,b\nspam,c\n\n ham , d \n")
    found = read_labelled(tmp_path / "my.csv", None, None)
    assert found.rows == [0, 3, 4] and found.texts == ["a", "c", " d "] and found.labels == ["ham", "spam", "ham"]
    assert found.dropped == {"empty text": 1, "empty label": 1}
    said = [str(part) for part in found.left_out]
    assert said == ["1 row left out: empty text (row 1)", "1 row left out: empty label (row 2)"]
    assert (found.text_column, found.label_column) == ("text", "label")


def test_labels_stay_text(tmp_path):
    (tmp_path / "my.csv").write_text("label,text\n01,a\n1,b\n1.0,c\nNone,d\n")
    assert read_labelled(tmp_path / "my.csv", None, None).labels == ["01", "1", "1.0", "None"]


@pytest.mark.parametrize("rows", ["ham,a\n", "ham,a\nham,b\n", ",a\n,b\n"])
def test_one_label_is_too_few(tmp_path, rows):
    (tmp_path / "my.csv").write_text("label,text\n" + rows)
    with pytest.raises(DataError, match="needs at least two labels; got (ham|none).*--label NAME"):
        read_labelled(tmp_path / "my.csv", None, None)


WORDY = [
    ["7", "where is my parcel now", "late"],
    ["8", "it has not come yet", "late"],
    ["9", "thank you all", "fine"],
    ["10", "", "fine"],
]


def test_columns_are_inferred_from_content_with_the_reason(tmp_path):
    found = find_columns(["id", "remark", "mood"], WORDY, None, None, tmp_path)
    assert (found.texts, found.labels, found.text_column) == ([1], [2], "remark")
    assert "'remark', by its content: the longest texts" in found.notes[0]
    assert found.notes[1] == "label column: 'mood', by its content: 2 different values in 4 rows"
    by_name = find_columns(["Text", "body", "target", "sms"], [], None, None, tmp_path).notes
    assert by_name == [
        "text column 'Text', label column 'target': by their names; 'body', 'sms' could also be the text (--text NAME)"
    ]
    assert find_columns(["id", "text", "mood"], [], None, "mood", tmp_path).notes == ["text column 'text': by its name"]
    assert find_columns(["id", "text", "mood"], [], "text", "mood", tmp_path).notes == []
    named = find_columns(["label", "remark", "mood"], WORDY, None, "mood", tmp_path)
    assert (named.texts, named.labels) == ([1], [2]) and len(named.notes) == 1


def test_ambiguous_columns_are_an_error(tmp_path):
    twice = [[*row, row[1] + "!", row[2]] for row in WORDY]
    names = ["id", "title", "mood", "summary", "tone"]
    with pytest.raises(DataError, match=r"no text column.*summary, title all look like text.*--text summary,title"):
        find_columns(names, twice, None, "mood", tmp_path)
    with pytest.raises(DataError, match="no label column.*'mood' has 2 values; 'tone' has 2 values.*--label NAME"):
        find_columns(names, twice, "title", None, tmp_path)
    for rows in (WORDY[:1], []):
        with pytest.raises(DataError, match="no text column recognised by its name or content"):
            find_columns(["id", "remark", "mood"], rows, None, None, tmp_path)
    with pytest.raises(DataError, match="the same column for text and label; got 'mood'"):
        find_columns(names, twice, "mood", "mood", tmp_path)


def test_columns_of_0_and_1_are_named_as_labels_for_training_and_for_the_check(tmp_path):
    rows = [[f"a text {i}", str(i % 2), str(i // 2 % 2)] for i in range(8)]
    wanted = "--label billing,refund --set classify.labels=many, for data check --labels many"
    with pytest.raises(DataError, match=wanted):
        find_columns(["text", "billing", "refund"], rows, None, None, tmp_path)


def test_several_text_columns_are_joined(tmp_path):
    (tmp_path / "my.csv").write_text("label,title,body\nx,a,b\ny,,c\nx,d,\ny,,\n")
    found = read_labelled(tmp_path / "my.csv", "title, body", None)
    assert found.texts == ["a\nb", "c", "d"] and found.dropped == {"empty text": 1}
    assert found.text_column == "title,body"
    assert join_cells(["a", "b", " "], [0, 2, 1]) == "a\nb" and join_cells(["a", " b"], [1]) == " b"
    (tmp_path / "one.csv").write_text('label,"a,b"\nx,1\ny,2\n')
    assert read_labelled(tmp_path / "one.csv", "a,b", None).texts == ["1", "2"]
    with pytest.raises(DataError, match="no column 'bodi'.*did you mean 'body'"):
        read_labelled(tmp_path / "my.csv", "title,bodi", None)


def test_groups_and_splits_are_read(tmp_path):
    (tmp_path / "my.csv").write_text("label,text,who,part\nx,a,ann,Train\ny,b, ann ,validation\nx,c,,TEST\n")
    found = read_labelled(tmp_path / "my.csv", None, None, group="who", split="part")
    assert found.groups == ["ann", "ann", ""] and found.sides == ["train", "val", "test"]
    with pytest.raises(DataError, match="row 0: unknown split in column 'who'; got 'ann'; known: train"):
        read_labelled(tmp_path / "my.csv", None, None, split="who")


def test_rows_of_further_files_keep_their_side(tmp_path):
    (tmp_path / "my.csv").write_text("label,text,who\nx,a,ann\ny,b,\n")
    found, more = (read_labelled(tmp_path / "my.csv", None, None, group=group) for group in (None, "who"))
    found.extend(more, "test")
    assert found.sides == ["", "", "test", "test"] and found.groups == ["", "", "ann", ""]
    assert found.files == ["my.csv"] * 4 and found.rows == [0, 1, 0, 1] and found.texts == ["a", "b"] * 2


def test_chunks_keep_the_order_and_limit_the_characters():
    texts = ["a" * (i * 7 % 40) for i in range(100)]
    chunks = list(text_chunks(texts, 60))
    assert [text for _, part in chunks for text in part] == texts and len(chunks) > 10
    assert [start for start, _ in chunks] == [sum(len(part) for _, part in chunks[:i]) for i in range(len(chunks))]
    assert all(sum(map(len, part)) <= 60 for _, part in chunks)
    assert [len(part) for _, part in text_chunks(["x" * 99, "y", "z" * 99], 50)] == [1, 1, 1]
    assert not list(text_chunks([]))


@pytest.mark.parametrize("labels", [("0", "1"), ("ham", "spam")])
def test_totals_and_repeated_headers_are_no_examples(tmp_path, labels):
    lines = [f"{text},{labels[row % 2]}" for row, text in enumerate(["total", "sum of all", "count", "a"] * 3)]
    (tmp_path / "my.csv").write_text(
        "\n".join(["text,label", *lines, "text,label", "Total:,240", "text,1", ",12"]) + "\n"
    )
    found = read_labelled(tmp_path / "my.csv", None, None)
    assert found.dropped == {"repeated header": 1, "total row": 1, "empty text": 1}
    assert found.rows == [*range(12), 14] and [part.rows for part in found.left_out] == [[12], [13], [15]]
