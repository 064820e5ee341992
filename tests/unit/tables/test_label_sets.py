"""Cells with several labels: which are recognised, and what they hold."""

import datasets
import pytest

from finetune.errors import DataError
from finetune.tables.label_sets import find_several, join_cells_of, labels_in, list_of_columns
from finetune.tables.readers import read_labelled

ONE = [
    ["ham", "spam", "ham"],
    ["Food; Drinks", "Sports", "Food; Drinks"],  # no part stands elsewhere
    ["Salem, OR", "Portland, OR", "Austin, TX", "Boston, MA"],  # one part in four recurs
    ["1,000", "2,000", "1,500", "2,500"],
    ["Food|Fruit", "Food|Bread", "Home|Garden"],  # paths: the lower part stands once
    ["[not a list", "[nor this", "neither]"],
    [f"a text of a person that is longer than any label would be, number {i}" for i in range(9)]
    + ["hello; thanks", "thanks"],
]
MANY = [
    (["billing;refund", "billing", "login"], ";", False, 1),
    (["billing ; refund", "refund;login", "x"], ";", False, 2),
    (["a|b", "a", "b|c", "c"], "|", False, 2),
    (["a, b", "a", "b, c", "c", "a, c"], ",", False, 3),
    (['["a", "b"]', '["c"]', "[]"], "", True, 3),
    (["['a', 'b']", "['c']"], "", True, 2),
    (["[0, 3]", "[1]"], "", True, 2),
    (['["a", "b"]', "c;d", "c"], ";", True, 2),
]


@pytest.mark.parametrize("cells", ONE)
def test_cells_of_one_label_are_left_alone(cells):
    assert find_several(cells) is None


@pytest.mark.parametrize(("cells", "separator", "lists", "count"), MANY)
def test_cells_of_several_labels_are_recognised(cells, separator, lists, count):
    found = find_several(cells)
    assert found is not None and (found.separator, found.lists, found.cells) == (separator, lists, count)


def test_where_many_are_asked_for_a_separator_counts_wherever_it_stands():
    assert find_several(["a;b", "c"], asked=True).separator == ";"
    assert find_several(["a|b", "c"], asked=True).separator == "|"
    assert find_several(["Salem, OR", "Austin, TX"], asked=True) is None


def test_all_ways_of_writing_the_same_labels_are_joined_alike():
    written = ["b;a", " a ; b ", '["b", "a", "b"]', "['a','b']"]
    assert join_cells_of(written, find_several(written, asked=True), "x") == ["a;b"] * 4
    assert join_cells_of(["[]", "[1, true, 2.5]"], find_several(["[1]"]), "x") == ["", "1;2.5;true"]
    assert labels_in("") == [] and labels_in("a;b") == ["a", "b"]


def test_a_label_with_the_separator_is_refused():
    with pytest.raises(DataError, match="'a;b'.*without it"):
        join_cells_of(['["a;b", "c"]'], find_several(['["a;b", "c"]']), "file.jsonl")


def test_columns_of_yes_and_no_are_the_list_of_their_names():
    names = ["a", "b, c", "d"]
    assert labels_of_cells(names, ["1", "0", "TRUE"]) == "a;d"
    assert labels_of_cells(names, ["x", "", ""]) == "a" and labels_of_cells(names, ["0", "no", "0.0"]) == ""
    assert list_of_columns(names, ["", "", ""], "x") == ""  # nothing is known of that row
    with pytest.raises(DataError, match=r"row 7: column 'b, c' does not say.*'2'"):
        list_of_columns(names, ["1", "2", "0"], "row 7")


def labels_of_cells(names, cells):
    cell = list_of_columns(names, cells, "x")
    return join_cells_of([cell], find_several([cell], asked=True), "x")[0]


def test_a_table_with_a_column_for_each_label_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,a,b\nhello you,1,0\nbye now,1,1\nnothing here,0,0\nunknown row,,\n")
    found = read_labelled(path, None, "a,b")
    assert found.labels == ['["a"]', '["a", "b"]', "[]"] and found.label_column == "a,b"
    assert found.dropped == {"empty label": 1}
    path.write_text("text,toxic,rude\n" + "a text here,1,0\nanother one,0,1\n" * 4)
    with pytest.raises(DataError, match="--label toxic,rude --set classify.labels=many"):
        read_labelled(path, None, None)


def test_class_numbers_in_the_lists_of_a_saved_data_set_become_names(tmp_path):
    names = datasets.ClassLabel(names=["joy", "fear"])
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.List(names)})
    data = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [[0, 1], [1]]}, features=features)
    data.save_to_disk(tmp_path / "saved")
    assert read_labelled(tmp_path / "saved", None, None).labels == ['["joy", "fear"]', '["fear"]']


def test_a_repeated_header_and_a_total_are_left_out_with_a_column_for_each_label(tmp_path):
    rows = ["text,a,b", "one text,1,0", "another text,0,1", "text,a,b", "a third text,1,0", "a fourth,0,1", "Total,2,3"]
    (tmp_path / "my.csv").write_text("\n".join(rows), encoding="utf-8")
    found = read_labelled(tmp_path / "my.csv", "text", "a,b")
    assert found.dropped == {"repeated header": 1, "total row": 1}
    assert found.labels == ['["a"]', '["b"]'] * 2
