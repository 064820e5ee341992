"""Whether there is a network: asked once, answered in three seconds, and nothing waits after a no."""

import socket
import threading
import time

import pytest

from finetune.errors import FetchError
from finetune.hub import fetch
from finetune.hub.registry import DataRow, WeightsRow

ROW = WeightsRow(
    name="tiny",
    repo="someone/model",
    revision="a" * 40,
    layers=1,
    width=4,
    heads=1,
    files={"model.safetensors": {}, "vocab.json": {}, "merges.txt": {}},
)
DATA = DataRow(
    name="messages",
    format="tsv",
    files={"Messages": {"bytes": 1, "sha256": "0" * 64}},
    archive={"url": "http://127.0.0.1:9/messages.zip", "member": "Messages"},
)


def test_network_question_is_asked_once(hub):
    assert fetch.network_available() and fetch.network_available()
    assert len(hub.requests) == 1


@pytest.mark.parametrize("status, reachable", [(404, True), (407, False), (502, False)])
def test_network_question_reads_the_answer(hub, status, reachable):
    hub.status = status
    assert fetch.network_available() is reachable


def test_network_question_to_a_name_server_that_hangs(hub, monkeypatch):
    asked, released = [], threading.Event()
    before = set(threading.enumerate())

    def hang(*_, **__):
        asked.append(1)
        released.wait(20)
        raise OSError("nobody answered")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.monotonic()
    assert not fetch.network_available() and not fetch.network_available()
    assert time.monotonic() - start < 3.5 and len(asked) == 1
    released.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)


def test_a_slow_start_of_our_own_is_not_taken_for_a_missing_network(hub, monkeypatch):
    import huggingface_hub.utils

    session = huggingface_hub.utils.get_session

    def slow():
        time.sleep(0.3)  # as on a busy machine: the certificates are read
        return session()

    monkeypatch.setattr(huggingface_hub.utils, "get_session", slow)
    monkeypatch.setattr(fetch, "PROBE_SECONDS", 0.25)
    assert fetch.network_available()


def test_after_a_no_nothing_waits(hub, monkeypatch):
    monkeypatch.setattr(fetch, "PROBE_SECONDS", 0.2)
    hub.delay_seconds = 3
    with pytest.raises(FetchError, match="does not answer.*FINETUNE_MIRROR"):
        fetch.get_weights(ROW)
    start = time.monotonic()
    with pytest.raises(FetchError, match="does not answer"):
        fetch.get_hub_checkpoint("someone/model")
    with pytest.raises(FetchError, match="does not answer"):
        fetch.get_data(DATA)
    assert time.monotonic() - start < 1


def test_offline_asks_nothing(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not fetch.network_available() and not hub.requests
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE is set.*lacks model.safetensors"):
        fetch.get_weights(ROW)
    assert not hub.requests
