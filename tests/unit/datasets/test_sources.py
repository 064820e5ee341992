"""From a data set's name to a file."""

import hashlib

import pytest

from finetune.datasets.sources import locate_data, resolve_data
from finetune.errors import DataError, FetchError


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Rows toy (in the mirror, with the sample to fall back on) and away (nowhere, without one)."""
    monkeypatch.chdir(tmp_path)
    content = b"ham|a\nspam|b\n".replace(b"|", b"\t")
    (tmp_path / "mirror" / "toy").mkdir(parents=True)
    (tmp_path / "mirror" / "toy" / "toy.txt").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "registry.toml").write_text("".join(f'''[data.{name}]
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
''' for name in ("toy", "away")))
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


@pytest.mark.parametrize("name, message", [
    ("nothing.csv", r"no data 'nothing\.csv': no such file and no such name; known: toy, away, .*spam-sample"),
    ("toi", "did you mean 'toy'"), ("mirror", "mirror: a directory where a file should be"), ("", "directory|no data")])
def test_what_is_neither_is_refused(registry, name, message):
    for ask in (resolve_data, locate_data):
        with pytest.raises(DataError, match=message):
            ask(name)
