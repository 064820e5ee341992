"""From a data set's name to a file."""

import hashlib

import pytest

from finetune.errors import DataError, FetchError
from finetune.recipe import Recipe
from finetune.tables.sources import locate_data, resolve_data
from finetune.tasks.classify.data import read_data


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Rows toy (in the mirror, with the sample to fall back on) and away (nowhere, without one)."""
    monkeypatch.chdir(tmp_path)
    content = b"ham|a\nspam|b\n".replace(b"|", b"\t")
    (tmp_path / "mirror" / "toy").mkdir(parents=True)
    (tmp_path / "mirror" / "toy" / "toy.txt").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "registry.toml").write_text(
        "".join(
            f'''[data.{name}]
format = "tsv"
header = false
quoting = false
columns = ["label", "text"]
licence = "CC0"
citation = "Us"
doi = "10.1/x"
description = "Toy"
{'fallback = "spam-sample"' if name == "toy" else ""}
[data.{name}.files]
"{name}.txt" = {{ bytes = {len(content)}, sha256 = "{digest}" }}
'''
            for name in ("toy", "away")
        )
    )
    monkeypatch.setenv("FINETUNE_REGISTRY", str(tmp_path / "registry.toml"))
    monkeypatch.setenv("FINETUNE_MIRROR", str(tmp_path / "mirror"))
    return tmp_path


def test_a_row_says_how_its_file_is_read(registry):
    found = locate_data("toy")
    assert found.path == registry / "mirror" / "toy" / "toy.txt" and found.name == "toy"
    assert (found.layout.delimiter, found.layout.header, found.layout.quoting) == ("\t", False, False)
    assert found.layout.columns == ("label", "text") and found.source == "Toy; doi 10.1/x"
    assert (found.licence, found.citation) == ("CC0", "Us")


def test_a_row_out_of_reach_is_its_sample_or_itself(registry, monkeypatch):
    assert resolve_data("toy") == "toy" and resolve_data("away") == "away"
    monkeypatch.delenv("FINETUNE_MIRROR")
    assert resolve_data("toy") == "spam-sample" and resolve_data("away") == "away"
    with pytest.raises(FetchError, match="without a network"):
        locate_data("away")


def test_the_sample_ships_with_the_package(registry):
    found = locate_data("spam-sample")
    lines = found.path.read_text(encoding="utf-8").splitlines()
    assert resolve_data("spam-sample") == "spam-sample" and len(lines) > 500 and found.layout.delimiter == "\t"


def test_a_file_is_its_whole_path(registry, monkeypatch):
    (registry / "my.csv").write_text("text,label\n")
    assert resolve_data("my.csv") == str(registry / "my.csv") == resolve_data("./mirror/../my.csv")
    monkeypatch.setenv("HOME", str(registry))
    monkeypatch.setenv("USERPROFILE", str(registry))
    assert resolve_data("~/my.csv") == str(registry / "my.csv")
    assert locate_data("my.csv").source == "the user's file" and locate_data("my.csv").licence == ""


def test_a_name_wins_over_a_file_of_that_name(registry):
    (registry / "toy").write_text("mine")
    assert resolve_data("toy") == "toy" and locate_data("toy").path.name == "toy.txt"


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "nothing.csv",
            r"'nothing\.csv' is neither a file nor the name of a data set; known: toy, away, .*spam-sample",
        ),
        ("toi", "did you mean 'toy'"),
        ("mirror", "mirror: a directory instead of a file"),
        ("", "directory|no data"),
    ],
)
def test_what_is_neither_is_refused(registry, name, message):
    for ask in (resolve_data, locate_data):
        with pytest.raises(DataError, match=message):
            ask(name)


def write(folder, **tables):
    for name, rows in tables.items():
        (folder / f"{name}.csv").write_text("text,label,split\n" + "".join(f"{row}\n" for row in rows))
    return {name: str(folder / f"{name}.csv") for name in tables}


def test_further_files_are_sides(tmp_path):
    names = write(tmp_path, data=["a,x,", "b,y,"], validation=["c,y,"], test=["d,x,", ",x,", "a,x,"])
    found = read_data(Recipe(**names))
    assert found.sides == ["", "", "val", "test", "test"] and found.texts == list("abcda")
    assert found.rows == [0, 1, 0, 0, 2] and found.dropped == {"empty text": 1}
    assert found.files == ["data.csv"] * 2 + ["validation.csv"] + ["test.csv"] * 2
    (tmp_path / "more").mkdir()
    other = write(tmp_path / "more", data=["e,y,"])["data"]
    assert read_data(Recipe(data=names["data"], test=other)).files == ["data.csv"] * 2 + [other]


def test_further_files_read_the_same_columns_and_keep_to_the_labels(tmp_path):
    names = write(tmp_path, data=["a,x,", "b,y,"], test=["d,z,", "a,x,"])
    with pytest.raises(DataError, match=r"test\.csv: labels that are not in data\.csv; got z; known: x, y"):
        read_data(Recipe(**names))
    with pytest.raises(DataError, match="the training table, given again"):
        read_data(Recipe(data=names["data"], test=names["data"]))
    rows = ["a,x,", "b,y,"]
    copy = write(tmp_path, data=["a,x,", "b,y,"], copy=rows, validation=rows[:1], test=rows[:1])
    with pytest.raises(DataError, match=r"the training table, given again; got a copy of data\.csv"):
        read_data(Recipe(data=names["data"], test=copy["copy"]))
    with pytest.raises(DataError, match=r"test\.csv: the validation table, given again; got a copy of validation"):
        read_data(Recipe(data=names["data"], validation=copy["validation"], test=copy["test"]))
    with pytest.raises(DataError, match=r"validation\.csv: the validation table, given again\. Leave"):
        read_data(Recipe(data=names["data"], validation=copy["validation"], test=copy["validation"]))
    (tmp_path / "test.csv").write_text("message,label\na,x\n")
    with pytest.raises(DataError, match=r"test\.csv: no column 'text'"):
        read_data(Recipe(**names))


def test_a_header_in_only_one_file_is_reported(tmp_path):
    headless = "".join(f"a {'x' * i},{'yz'[i % 2]}\n" for i in range(8))
    for name, content in (
        ("data", "text,label\n" + headless),
        ("bare", "b" + headless),
        ("short", "c,y\nd,z\n"),
        ("test", "text,label\n1,y\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(content)
    at = {name: str(tmp_path / f"{name}.csv") for name in ("data", "bare", "short", "test")}
    for name, got in (("bare", "columns called column_1"), ("short", "the first row of short.csv: c, y")):
        with pytest.raises(
            DataError,
            match=f"{name}.csv: no header with the columns of data.csv was found; "
            f"got {got}.*known: columns 'text' and 'label'.*same header",
        ):
            read_data(Recipe(data=at["data"], test=at[name]))
    with pytest.raises(DataError, match="bare.csv: no header was found, but .*test.csv seems to have one"):
        read_data(Recipe(data=at["bare"], columns={"text": "column_1", "label": "column_2"}, test=at["test"]))


def test_a_split_column_and_a_file_do_not_contradict(tmp_path):
    names = write(tmp_path, data=["a,x,train", "b,y,train", "c,x,test"], test=["d,x,"])
    columns = {"split": "split"}
    assert read_data(Recipe(data=names["data"], columns=columns)).sides == ["train", "train", "test"]
    with pytest.raises(DataError, match=r"data\.csv already has a split column with test rows"):
        read_data(Recipe(**names, columns=columns))


def test_a_folder_that_datasets_saved_is_data_and_another_is_not(tmp_path, monkeypatch):
    import datasets

    datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]}).save_to_disk(tmp_path / "saved")
    assert read_data(Recipe(data=str(tmp_path / "saved"))).texts == ["a", "b"]
    assert resolve_data("hf:owner/name") == "hf:owner/name"
    monkeypatch.setattr("finetune.tables.sources.get_hub_dataset", {"hf:owner/name": tmp_path / "saved"}.get)
    assert read_data(Recipe(data="hf:owner/name")).labels == ["x", "y"]
    with pytest.raises(DataError, match="directory instead of a file.*save_to_disk"):
        locate_data(str(tmp_path))
