"""Streams of texts: what they read, from where they go on, and what a stream from elsewhere is pinned to."""

import json
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest

from finetune.errors import DataError, FetchError
from finetune.hub import streams
from finetune.hub.streams import TextStream, pin_stream

TEXTS = [f"text {n}\n" for n in range(30)]


@pytest.fixture(params=["jsonl", "txt", "parquet", "saved", "saved splits"])
def place(request, tmp_path):
    if request.param == "jsonl":
        (tmp_path / "a.jsonl").write_text("".join(json.dumps({"n": 1, "text": text}) + "\n" for text in TEXTS))
        return tmp_path / "a.jsonl"
    if request.param == "txt":
        (tmp_path / "a.txt").write_text("".join(TEXTS), encoding="utf-8-sig")
        return tmp_path / "a.txt"
    saved = datasets.Dataset.from_dict({"text": TEXTS, "n": [1] * 30})
    if request.param == "parquet":
        saved.to_parquet(tmp_path / "a.parquet", batch_size=4)  # rows of a group
        return tmp_path / "a.parquet"
    (datasets.DatasetDict(train=saved) if request.param == "saved splits" else saved).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_it_goes_on_from_any_state_as_often_as_wanted(place):
    stream, states = TextStream(place), []
    for text in stream.texts():
        assert text == TEXTS[len(states)]
        states.append(json.loads(json.dumps(stream.state())))
    assert len(states) == 30
    for number in (0, 7, 28, 7, 29):
        again = TextStream(place)
        for at, text in enumerate(again.texts(states[number]), number + 1):
            assert text == TEXTS[at] and again.state() == states[at]
        assert list(stream.texts(states[number])) == TEXTS[number + 1 :]


@pytest.fixture
def hub(monkeypatch):
    """A hub whose data set moves on, and what was asked of it."""
    asked = []
    monkeypatch.setattr(streams, "network_available", lambda: True)
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "dataset_info",
        lambda self, repo: asked.append(repo) or SimpleNamespace(sha=f"revision {len(asked)}"),
    )
    made = datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: asked.append((names, options)) or made)
    return asked


def test_a_data_set_of_the_hub_stays_at_its_first_revision(hub):
    path = pin_stream("hf:some/texts:en")
    assert pin_stream("hf:some/texts:en") == path and hub == ["some/texts"]
    assert list(TextStream(path).texts()) == TEXTS
    assert hub[1:] == [(("some/texts", "en"), {"revision": "revision 1", "split": "train", "streaming": True})]
    assert pin_stream("hf:some/texts") != path


def test_an_address_is_read_by_the_ending_of_its_path(hub):
    path = pin_stream("https://example.org/some.jsonl.gz?download=true")
    assert list(TextStream(path).texts()) == TEXTS
    [((kind,), options)] = hub
    assert kind == "json" and options["data_files"] == ["https://example.org/some.jsonl.gz?download=true"]


def test_without_a_network_it_says_so(monkeypatch):
    monkeypatch.setattr(streams, "network_available", lambda: False)
    with pytest.raises(
        FetchError, match="'hf:no/network' cannot be streamed: the hub does not answer.*known: hf:OWNER"
    ):
        pin_stream("hf:no/network")


def test_a_network_that_fails_in_mid_stream_says_how_far_it_came(hub, monkeypatch):
    def fails():
        yield {"text": "first"}
        raise ConnectionError("unreachable")

    broken = datasets.IterableDataset.from_generator(fails)
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: broken)
    with pytest.raises(
        FetchError, match="after 1 rows; got ConnectionError: unreachable.*continues from the last checkpoint"
    ):
        list(TextStream(pin_stream("https://example.org/b.txt")).texts())


def test_a_saved_data_set_without_texts_is_refused(tmp_path):
    datasets.Dataset.from_dict({"body": ["x"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="text"):
        list(TextStream(tmp_path / "saved").texts())
