"""Settings: what --set makes of text, near misses, and errors in the user's words."""

import pytest
from pydantic import Field

from finetune.config import Settings, field_names, merge, nearest, parse_overrides, read_toml, validate
from finetune.errors import RecipeError
from finetune.recipe import Recipe


class Inner(Settings):
    lr: float = Field(1.0, gt=0)
    name: str | None = None


class Outer(Settings):
    count: int = 3
    size: int | None = None
    inner: Inner = Inner()


@pytest.mark.parametrize("text, value", [("1e-4", 1e-4), (" 2 ", 2.0), ("1_000", 1000.0), (".5", 0.5)])
def test_numbers_are_read_by_the_schema(text, value):
    assert validate(Outer, parse_overrides([f"inner.lr={text}"]), "--set").inner.lr == value


@pytest.mark.parametrize(
    "text, value",
    [
        ("1", "1"),
        ("01", "01"),
        ("1.50", "1.50"),
        ("true", "true"),
        ("nan", "nan"),
        ('"1"', "1"),
        ("'a b'", "a b"),
        ("a=b", "a=b"),
        ("", ""),
        ('"open', '"open'),
        ("[x", "[x"),
        ("# no comment", "# no comment"),
        ("a # b", "a # b"),
    ],
)
def test_text_stays_as_it_was_typed(text, value):
    assert validate(Outer, parse_overrides([f"inner.name={text}"]), "--set").inner.name == value


def test_whole_numbers_in_either_kind_of_field():
    found = validate(Outer, parse_overrides(["count=7", "size=9"]), "--set")
    assert (found.count, found.size) == (7, 9) and type(found.size) is int


def test_overrides_nest_and_the_last_one_wins():
    assert parse_overrides(["a.b=1", "a.c=2", "a.b=3", "d={ e = 1 }"]) == {"a": {"b": "3", "c": "2"}, "d": {"e": 1}}
    assert parse_overrides([]) == {}


@pytest.mark.parametrize("pair", ["nonsense", "=1", " =1", ""])
def test_an_override_is_a_pair(pair):
    with pytest.raises(RecipeError, match="KEY=VALUE"):
        parse_overrides([pair])


def test_merge_alters_neither():
    base, changes = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "d": {"e": 4}}
    assert merge(base, changes) == {"a": {"b": 9, "c": 2}, "d": {"e": 4}}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3} and changes == {"a": {"b": 9}, "d": {"e": 4}}


@pytest.mark.parametrize(
    "word, meant",
    [
        ("train.learning_rate", "train.lr"),
        ("learning_rate", "train.lr"),
        ("lr", "train.lr"),
        ("trian.lr", "train.lr"),
        ("epochs", "train.epochs"),
        ("train.epoch", "train.epochs"),
        ("train.weight_dcay", "train.weight_decay"),
        ("wieghts", "weights"),
        ("train.batchsize", "train.batch_size"),
        ("evaluate.aims", "evaluate.aim"),
        ("columns.labels", "columns.label"),
    ],
)
def test_a_near_miss_finds_the_key(word, meant):
    assert nearest(word, field_names(Recipe)) == f"did you mean {meant!r}?"


@pytest.mark.parametrize("word", ["zzz", "train.qqqqqq", ""])
def test_what_is_far_from_all_finds_nothing(word):
    assert nearest(word, field_names(Recipe)) == ""


def test_every_key_in_dotted_form():
    assert field_names(Outer) == ["count", "size", "inner.lr", "inner.name"]


@pytest.mark.parametrize(
    "values, words",
    [
        ({"inner": {"lrr": 1}}, ["mine: unknown key 'inner.lrr'", "did you mean 'inner.lr'? See: finetune show x"]),
        ({"inner": {"lr": float("nan")}}, ["mine: inner.lr: ", "finite", "got NaN"]),
        ({"inner": {"lr": -1}}, ["inner.lr", "greater than 0", "got -1"]),
        ({"count": "x" * 500}, ["count"]),
        ({"inner": 5}, ["inner", "got 5"]),
        ([], ["mine: "]),
        (None, ["mine: ", "null"]),
    ],
)
def test_an_error_names_source_key_and_value(values, words):
    with pytest.raises(RecipeError) as caught:
        validate(Outer, values, "mine", see="finetune show x")
    assert [word for word in words if word not in str(caught.value)] == [] and len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Outer().count = 4


@pytest.mark.parametrize(
    "text, word",
    [
        ("a = 1\na = 2\n", "line 2"),
        ("a = \n", "line 1"),
        ("a = " + "9" * 5000, "digit"),
        ("a = " + "[" * 5000, "recursion"),
    ],
)
def test_a_toml_file_with_a_fault_is_named(tmp_path, text, word):
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(RecipeError, match=r"my\.toml: cannot be read as TOML") as caught:
        read_toml(tmp_path / "my.toml")
    assert word in str(caught.value)


def test_a_toml_file_is_utf_8(tmp_path):
    (tmp_path / "my.toml").write_bytes('a = "é"'.encode())
    assert read_toml(tmp_path / "my.toml") == {"a": "é"}
    (tmp_path / "my.toml").write_bytes('a = "é"'.encode("latin-1"))
    with pytest.raises(RecipeError, match="cannot be read"):
        read_toml(tmp_path / "my.toml")
    with pytest.raises(RecipeError, match="no such file"):
        read_toml(tmp_path / "none.toml")
