"""Weights from a hub that misbehaves: the right file or a FetchError, never a wrong file at its final name."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune.errors import FetchError
from finetune.files import home
from finetune.hub import fetch
from finetune.hub.registry import WeightsRow

COMMIT = "a" * 40
NAMES = ("model.safetensors", "vocab.json", "merges.txt")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def weights_row(hub, pinned=True) -> WeightsRow:
    files = {
        name: {"bytes": len(hub.files[name]), "sha256": sha256(hub.files[name])} if pinned else {} for name in NAMES
    }
    return WeightsRow(name="tiny", repo="someone/model", revision=COMMIT, files=files, layers=1, width=4, heads=1)


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file that someone could take for finished, by name; our own locks and notes are none."""
    return {
        path.name: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and not path.name.endswith((".lock", ".TAG"))
        and ".no_exist" not in path.parts
        and "refs" not in path.parts
    }


def assert_only_right_files(hub, tmp_path) -> None:
    """Nothing partial or wrong stands in the cache under any name."""
    found = files_below(tmp_path / "hub")
    assert all(content in hub.files.values() for content in found.values()), sorted(found)


def test_download_is_whole_checked_and_not_repeated(hub, tmp_path, capsys):
    row = weights_row(hub)
    assert fetch.weights_status(row) == "not here" and fetch.find_weights(row) is None
    folder = fetch.get_weights(row)
    assert {name: (folder / name).read_bytes() for name in NAMES} == {name: hub.files[name] for name in NAMES}
    assert "2.0 MB" in capsys.readouterr().out
    before = len(hub.requests)
    assert fetch.get_weights(row) == folder and fetch.weights_status(row) == "in cache"
    assert len(hub.requests) == before
    assert [check.status for check in fetch.verify_weights(row)] == ["ok"] * 3


@pytest.mark.parametrize(
    "mode, words",
    [
        (403, "refuses access"),
        (404, "not found"),
        (429, "too many requests"),
        (500, "server error"),
        (503, "server error"),
        ("html", "HTML page"),
        ("html-get", "HTML page"),
        ("pointer", "git-lfs pointer"),
        ("no-hub", "does not answer like a Hugging Face hub"),
        ("corrupt", "failed the check"),
    ],
)
def test_faulty_server(hub, tmp_path, mode, words):
    row = weights_row(hub)
    hub.modes["model.safetensors"] = mode
    with pytest.raises(FetchError) as error:
        fetch.get_weights(row)
    assert words in str(error.value)
    assert_only_right_files(hub, tmp_path)
    assert fetch.find_weights(row) is None
    hub.modes.clear()
    assert (fetch.get_weights(row) / NAMES[0]).read_bytes() == hub.files[NAMES[0]]


def test_busy_hub_is_asked_again(hub):
    row = weights_row(hub)
    hub.modes["vocab.json"] = 503
    answer, asked = hub.answer, []

    def recovering(request, body):
        asked.append(request.path)
        if sum(path.endswith("vocab.json") for path in asked) == 3:
            hub.modes.clear()
        answer(request, body)

    hub.answer = recovering
    assert fetch.find_weights(row) is None and (fetch.get_weights(row) / "vocab.json").exists()


def test_same_size_corruption_is_fetched_once_more(hub, capsys):
    hub.modes["model.safetensors"] = "corrupt-once"
    folder = fetch.get_weights(weights_row(hub))
    assert (folder / NAMES[0]).read_bytes() == hub.files[NAMES[0]] and hub.gets(NAMES[0]) == 2
    assert "trying again" in capsys.readouterr().err


def test_server_that_always_breaks_off_is_given_up(hub, tmp_path, monkeypatch):
    hub.modes["model.safetensors"] = "truncated"
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits a second between its attempts
    with pytest.raises(FetchError, match="far more data than the file has|no usable response|incomplete"):
        fetch.get_weights(weights_row(hub))
    assert hub.gets("model.safetensors") < 20
    assert_only_right_files(hub, tmp_path)


@pytest.fixture
def impatient(monkeypatch):
    """A time-out of a second, and no waits between attempts."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.mark.parametrize("mode", ["redirect-loop", "redirect-file", "stalled"])
def test_server_that_never_gives_the_file_is_given_up_in_time(hub, tmp_path, impatient, mode):
    hub.modes["model.safetensors"] = mode
    before = time.monotonic()
    with pytest.raises(FetchError):
        fetch.get_weights(weights_row(hub))
    assert time.monotonic() - before < 15, "the server itself stalls for longer"
    assert_only_right_files(hub, tmp_path)


def test_server_that_sends_more_than_it_says_gives_the_file(hub, tmp_path, impatient):
    hub.modes["model.safetensors"] = "longer"
    folder = fetch.get_weights(weights_row(hub))
    assert (folder / NAMES[0]).read_bytes() == hub.files[NAMES[0]]
    assert_only_right_files(hub, tmp_path)


def test_hub_that_serves_another_file_is_refused_before_the_download(hub):
    row = weights_row(hub)
    hub.files["model.safetensors"] = bytes(reversed(hub.files["model.safetensors"]))
    with pytest.raises(FetchError, match="does not match the pinned hash"):
        fetch.get_weights(row)
    assert hub.gets("model.safetensors") <= 1  # the look at its first bytes for the message


def test_damaged_cache_is_reported_and_replaced(hub, capsys):
    row = weights_row(hub)
    path = fetch.get_weights(row) / "model.safetensors"
    path.resolve().write_bytes(bytes(len(hub.files["model.safetensors"])))
    assert [check.status for check in fetch.verify_weights(row)] == ["wrong", "ok", "ok"]
    assert (fetch.get_weights(row) / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert "is damaged" in capsys.readouterr().err


def test_damaged_cache_without_network_is_kept_and_refused(hub, monkeypatch):
    row = weights_row(hub)
    path = fetch.get_weights(row) / "model.safetensors"
    path.resolve().write_bytes(b"damaged")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fetch.network_available.cache_clear()
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE is set.*is damaged: 7 bytes, not"):
        fetch.get_weights(row)
    assert path.read_bytes() == b"damaged"


def test_file_linked_into_the_cache_is_not_deleted_outside_it(hub, tmp_path):
    row = weights_row(hub)
    path = fetch.get_weights(row) / "model.safetensors"
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"my own work")
    path.unlink()
    path.symlink_to(mine)
    assert (fetch.get_weights(row) / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert mine.read_bytes() == b"my own work"


def test_unpinned_files_are_held_to_the_hubs_value_which_is_recorded(hub, monkeypatch, capsys, tmp_path):
    row = weights_row(hub, pinned=False)
    folder = fetch.get_weights(row)
    said = capsys.readouterr().out
    assert all(sha256(hub.files[name]) in said for name in NAMES) and "recorded" in said
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fetch.network_available.cache_clear()
    assert fetch.get_weights(row) == folder and "recorded" not in capsys.readouterr().out
    (folder / "vocab.json").resolve().write_bytes(b'{"b": 0}\n' * 50)
    with pytest.raises(FetchError, match="vocab.json is damaged"):
        fetch.get_weights(row)
    mirror = tmp_path / "mirror" / "tiny"
    mirror.mkdir(parents=True)
    for name in NAMES:
        (mirror / name).write_bytes(hub.files[name])
    monkeypatch.setenv("FINETUNE_MIRROR", str(mirror.parent))
    assert fetch.get_weights(row) == mirror  # recorded hashes hold for a mirror, too


def test_unpinned_corruption_is_seen(hub, tmp_path):
    hub.modes["model.safetensors"] = "corrupt"
    with pytest.raises(FetchError, match="two downloads of .* failed the check"):
        fetch.get_weights(weights_row(hub, pinned=False))
    assert_only_right_files(hub, tmp_path)


def test_cache_of_another_tool_is_vouched_for_by_its_blob_names(hub, monkeypatch):
    from huggingface_hub import hf_hub_download

    row = weights_row(hub, pinned=False)
    for name in NAMES:
        hf_hub_download(row.repo, name, revision=row.revision, endpoint=hub.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = fetch.get_weights(row) / "model.safetensors"
    blob = path.resolve()
    store = blob.parents[2] / "blobs" / "ff" / ("f" * 64)  # the client may link a blob into such a store
    store.parent.mkdir(parents=True)
    blob.rename(store)
    blob.symlink_to(store)
    (home() / "recorded-hashes.json").unlink()
    assert fetch.get_weights(row) == path.parent and store.exists()


def test_full_disk_is_reported_before_the_download(hub, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(FetchError, match="disk is too full.*the download is 2 MB"):
        fetch.get_weights(weights_row(hub))
    assert hub.gets("model.safetensors") == 0


@pytest.mark.parametrize("number, words", [(28, "the disk is full"), (13, "the cache is not writable")])
def test_disk_errors_are_reported(hub, tmp_path, monkeypatch, number, words):
    import huggingface_hub.file_download as client

    def fail(url, temp_file, **_):
        temp_file.write(b"half")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(client, "http_get", fail)
    with pytest.raises(FetchError, match=words):
        fetch.get_weights(weights_row(hub))
    assert_only_right_files(hub, tmp_path)


def test_hub_checkpoint_takes_safetensors_only_and_works_offline(hub, monkeypatch):
    hub.files |= {"pytorch_model.bin": b"\x80\x02evil", "tokenizer.json": b"{}", "flax.msgpack": b"x"}
    folder = fetch.get_hub_checkpoint("someone/model")
    assert {path.name for path in folder.iterdir()} == {*NAMES, "config.json", "tokenizer.json"}
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fetch.network_available.cache_clear()
    assert fetch.get_hub_checkpoint("someone/model") == folder
    (folder / "config.json").resolve().write_bytes(b'{"n_layer": 3}\n')
    with pytest.raises(FetchError, match="config.json is damaged"):
        fetch.get_hub_checkpoint("someone/model")


def test_hub_checkpoint_refuses(hub, monkeypatch):
    with pytest.raises(FetchError, match="is not the id"):
        fetch.get_hub_checkpoint("../../etc/passwd")
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x02evil"}
    with pytest.raises(FetchError, match="pickles .* are never read"):
        fetch.get_hub_checkpoint("someone/model")
    hub.status = 404
    with pytest.raises(FetchError, match="not found"):
        fetch.get_hub_checkpoint("someone/other")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fetch.network_available.cache_clear()
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE is set"):
        fetch.get_hub_checkpoint("someone/other")


def test_wrong_checkpoint_of_a_user_is_refused(hub, tmp_path):
    hub.modes["model.safetensors"] = "corrupt"
    with pytest.raises(FetchError, match="two downloads of .* failed the check"):
        fetch.get_hub_checkpoint("someone/model")
    assert_only_right_files(hub, tmp_path)


GET = """
import sys
from finetune.hub import fetch
from finetune.hub.registry import weights_registry
folder = fetch.get_weights(weights_registry()["tiny"])
print((folder / "model.safetensors").stat().st_size)
"""


@pytest.fixture
def command(hub, tmp_path):
    """Start a process that gets the row `tiny` from the fake hub."""
    lines = [
        "[weights.tiny]",
        'repo = "someone/model"',
        f'revision = "{COMMIT}"',
        "layers = 1",
        "width = 4",
        "heads = 1",
        "[weights.tiny.files]",
    ]
    lines += [
        f'"{name}" = {{ bytes = {len(hub.files[name])}, sha256 = "{sha256(hub.files[name])}" }}' for name in NAMES
    ]
    (tmp_path / "rows.toml").write_text("\n".join(lines))
    environment = os.environ | {
        "FINETUNE_REGISTRY": str(tmp_path / "rows.toml"),
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", GET], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


def test_two_processes_at_once_both_succeed(hub, command):
    hub.delay_seconds = 0.05
    pair = [command(), command()]
    outputs = [process.communicate(timeout=60) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert all(out.splitlines()[-1] == str(len(hub.files["model.safetensors"])) for out, _ in outputs)


def test_killed_download_leaves_nothing_that_looks_finished(hub, command, tmp_path):
    hub.delay_seconds = 0.3
    process = command()
    deadline = time.monotonic() + 30
    while not hub.gets("model.safetensors") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    finished = {path.name for path in (tmp_path / "hub").rglob("snapshots/*/*")}
    assert hub.gets("model.safetensors") == 1 and "model.safetensors" not in finished
    hub.delay_seconds = 0
    out, errors = (process := command()).communicate(timeout=60)
    assert process.returncode == 0 and out.endswith(f"{len(hub.files['model.safetensors'])}\n"), errors
