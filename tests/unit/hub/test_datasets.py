"""Data sets of the hub: fetched once, kept as a folder, refused in words."""

import datasets
import pytest

from finetune.errors import DataError, FetchError
from finetune.hub import datasets as hub_datasets
from finetune.tasks.pretrain.documents import locate_text


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one data set; returns the calls that reached it."""
    calls = []

    def load_dataset(name, config):
        calls.append((name, config))
        if name != "owner/poems":
            raise datasets.exceptions.DatasetNotFoundError(f"{name} does not exist on the Hub")
        return datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a rose"]})})

    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub_datasets, "network_available", lambda: True)
    return calls


def test_a_data_set_is_fetched_once(hub, monkeypatch):
    first = locate_text("hf:owner/poems:short").path
    monkeypatch.setattr(hub_datasets, "network_available", lambda: False)
    assert locate_text("hf:owner/poems:short").path == first
    assert hub == [("owner/poems", "short")]
    assert datasets.load_from_disk(str(first))["train"]["text"][:] == ["a rose"]


def test_an_unknown_data_set_leaves_nothing(hub, tmp_path):
    with pytest.raises(FetchError, match="does not exist"):
        locate_text("hf:owner/unknown")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["hf:", "hf:owner/poems"])
def test_without_a_network_the_error_says_what_to_do(hub, monkeypatch, name):
    monkeypatch.setattr(hub_datasets, "network_available", lambda: False)
    with pytest.raises(FetchError, match="save_to_disk"):
        locate_text(name)
    assert not hub


def test_a_missing_file_says_how_a_data_set_is_named(hub):
    with pytest.raises(DataError, match="hf:OWNER/NAME"):
        locate_text("owner/poems")
