"""Mirror, cache and hashes, without any server; what a network does wrong is in tests/faults."""

import hashlib
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from finetune.errors import FetchError
from finetune.files import home
from finetune.hub import cache, fetch
from finetune.hub.registry import DataRow, WeightsRow

COMMIT = "b" * 40
CONTENT = {"model.safetensors": b"tensors" * 100, "vocab.json": b"{}", "merges.txt": b"#version\n"}


def pinned(content: bytes) -> dict:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def weights_row(**files) -> WeightsRow:
    known = {name: pinned(content) for name, content in CONTENT.items()} | files
    return WeightsRow(name="tiny", repo="someone/model", revision=COMMIT, files=known, layers=1, width=4, heads=1)


DATA = DataRow(name="messages", format="tsv", files={"Messages": pinned(b"ham\thello\n")})


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No network and empty caches."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    fetch.network_available.cache_clear()
    yield
    fetch.network_available.cache_clear()


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    """A mirror with all files of both rows."""
    for name, content in CONTENT.items():
        put(tmp_path / "mirror" / "tiny" / name, content)
    put(tmp_path / "mirror" / "messages" / "Messages", b"ham\thello\n")
    monkeypatch.setenv("FINETUNE_MIRROR", str(tmp_path / "mirror"))
    return tmp_path / "mirror"


@pytest.fixture
def hub_cache(tmp_path):
    """The row in the Hugging Face cache as its client leaves it: links to blobs."""
    folder = tmp_path / "hub" / "models--someone--model" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name, content in CONTENT.items():
        blob = folder.parents[1] / "blobs" / hashlib.sha256(content).hexdigest()
        put(blob, content)
        (folder / name).symlink_to(os.path.relpath(blob, folder))
    return folder


def put(path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_mirror_with_all_files_serves(mirror):
    row = weights_row()
    assert fetch.weights_status(row) == "mirror"
    assert fetch.find_weights(row) == fetch.get_weights(row) == mirror / "tiny"
    assert [(check.file, check.status, check.size_bytes) for check in fetch.verify_weights(row)] == [
        ("model.safetensors", "ok", 700),
        ("vocab.json", "ok", 2),
        ("merges.txt", "ok", 9),
    ]
    assert fetch.find_data(DATA) == fetch.get_data(DATA) == mirror / "messages" / "Messages"


def test_mirror_comes_before_the_cache_and_an_empty_variable_is_unset(mirror, hub_cache, monkeypatch):
    assert fetch.get_weights(weights_row()) == mirror / "tiny"
    monkeypatch.setenv("FINETUNE_MIRROR", "")
    assert fetch.get_weights(weights_row()) == hub_cache and fetch.weights_status(weights_row()) == "in cache"


def test_mirror_with_a_missing_file_is_not_used(mirror):
    (mirror / "tiny" / "merges.txt").unlink()
    row = weights_row()
    assert fetch.find_weights(row) is None and fetch.weights_status(row) == "not here"
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE is set.*tiny lacks merges.txt"):
        fetch.get_weights(row)


def test_mirror_without_one_file_gives_way_to_the_cache(mirror, hub_cache):
    (mirror / "tiny" / "merges.txt").unlink()
    assert fetch.get_weights(weights_row()) == hub_cache


@pytest.mark.parametrize(
    "content, words",
    [
        (b"tensorz" * 100, "hash .*, not "),
        (b"tensors" * 99, "693 bytes, not 700"),
        (b"<!DOCTYPE html><p>Log in", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"PK\x03\x04 torch", "zip archive or a pickle"),
    ],
)
def test_wrong_file_in_the_mirror_is_refused_though_the_cache_has_it(mirror, hub_cache, content, words):
    put(mirror / "tiny" / "model.safetensors", content)
    with pytest.raises(FetchError, match=words):
        fetch.get_weights(weights_row())
    assert fetch.verify_weights(weights_row())[0].status == "wrong"
    assert (mirror / "tiny" / "model.safetensors").read_bytes() == content


def test_directory_in_the_place_of_a_file(mirror):
    (mirror / "messages" / "Messages").unlink()
    (mirror / "messages" / "Messages").mkdir()
    (mirror / "tiny" / "vocab.json").unlink()
    (mirror / "tiny" / "vocab.json").mkdir()
    for get, row in ((fetch.get_data, DATA), (fetch.get_weights, weights_row())):
        with pytest.raises(FetchError, match="Is a directory"):
            get(row)
    assert fetch.verify_weights(weights_row())[1] == fetch.FileCheck("vocab.json", "missing", 0, "")


def test_wrong_data_in_the_mirror_is_refused(mirror):
    put(mirror / "messages" / "Messages", b"ham\thellO\n")
    with pytest.raises(FetchError, match="Replace it, or unset FINETUNE_MIRROR"):
        fetch.get_data(DATA)


def test_unpinned_file_of_a_mirror_is_refused_until_the_hub_has_vouched_for_it(mirror, hub_cache, monkeypatch):
    row = weights_row(**{"model.safetensors": {}})
    with pytest.raises(FetchError, match="has no pinned sha256"):
        fetch.get_weights(row)
    assert fetch.verify_weights(row)[0].status == "not pinned"
    monkeypatch.delenv("FINETUNE_MIRROR")
    assert fetch.get_weights(row) == hub_cache  # the name of the blob is the hub's value
    monkeypatch.setenv("FINETUNE_MIRROR", str(mirror))
    assert fetch.get_weights(row) == mirror / "tiny"
    put(mirror / "tiny" / "model.safetensors", b"tensorz" * 100)
    with pytest.raises(FetchError, match="does not match the recorded hash"):
        fetch.get_weights(row)


def test_unpinned_file_that_nobody_vouches_for_is_refused(hub_cache):
    (hub_cache / "model.safetensors").unlink()  # a cache without links, as on Windows
    put(hub_cache / "model.safetensors", CONTENT["model.safetensors"])
    assert fetch.get_weights(weights_row()) == hub_cache
    with pytest.raises(FetchError, match="model.safetensors has no pinned sha256"):
        fetch.get_weights(weights_row(**{"model.safetensors": {}}))


def test_data_of_our_own_cache_is_checked():
    path = home() / "data" / "messages" / "Messages"
    assert fetch.find_data(DATA) is None
    put(path, b"ham\thello\n")
    assert fetch.find_data(DATA) == fetch.get_data(DATA) == path
    put(path, b"ham\tother\n")
    with pytest.raises(FetchError, match="messages cannot be downloaded without a network"):
        fetch.get_data(DATA)


def test_git_blob_id_is_gits_own(tmp_path):
    put(tmp_path / "file", b"hello\n")  # the value that `git hash-object` prints
    expect = cache.Expected(6, "ce013625030ba8dba906f756967f9e9ca394464a", "hub")
    assert cache.problem(tmp_path / "file", expect) == ""
    put(tmp_path / "file", b"hellO\n")
    assert "not ce013625" in cache.problem(tmp_path / "file", expect)


def test_home_without_a_home_directory():
    code = "from finetune.files import home; print(home())"
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HOME", "FINETUNE_HOME", "XDG_CACHE_HOME", "USERPROFILE")
    }
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    where = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert os.path.isabs(where) and where.endswith("gpt2-finetune")


def test_importing_fetch_is_light():
    code = "import sys, finetune.hub.fetch; print({'huggingface_hub', 'pooch', 'requests', 'torch'} & {*sys.modules})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("status", "waits"), [(None, []), (404, []), (428, []), (429, [1, 3]), (499, []), (500, [1, 3]), (503, [1, 3])]
)
def test_a_busy_or_failing_hub_is_asked_three_times_and_any_other_answer_is_taken(monkeypatch, status, waits):
    asked, waited = [], []
    error = OSError("no")
    error.response = None if status is None else SimpleNamespace(status_code=status)

    def question():
        asked.append(1)
        raise error

    monkeypatch.setattr(fetch, "time", SimpleNamespace(sleep=waited.append))
    with pytest.raises(OSError, match="no"):
        fetch._ask(question)
    assert waited == waits and len(asked) == 1 + len(waits)


def test_a_server_that_sends_three_times_the_file_is_stopped():
    with fetch._bar("tiny: vocab.json", 100)(disable=True) as bar:
        for part in (500_000, None, 500_000, 300):  # a megabyte more is let pass
            bar.update(part)
        with pytest.raises(FetchError, match="far more data than the file has; got 1,000,301 bytes; known: 100 bytes"):
            bar.update(1)
    with fetch._bar("tiny: vocab.json", None)(disable=True) as bar:
        bar.update(10**9)
