"""Files appear whole or not at all."""

import hashlib
import json
import os

import pytest

from finetune import files
from finetune.errors import RunError
from finetune.files import atomic_write, read_json, sha256_file, sha256_json, write_json, write_tensors


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as file:
        file.write("one\r\ntwo\n")
        assert not path.exists()
    assert path.read_bytes() == b"one\r\ntwo\n" and [p.name for p in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_process_that_only_helps_writes_nothing(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(files, "_writes", True)
    files.write_nothing()
    (tmp_path / "old").write_text("old")
    for name in ("old", "new"):
        with files.atomic_write(tmp_path / name, mode) as file:
            file.write(b"more" if mode == "wb" else "more")
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_text() == "old"


def test_an_error_leaves_the_older_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("older")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write("newer")
        raise ZeroDivisionError
    assert path.read_text() == "older" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_older_file_and_says_what_to_do(tmp_path, monkeypatch, call):
    path = tmp_path / "a.txt"
    path.write_text("older")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    said = r"a\.txt; got No space left on device\. Free some space"
    with pytest.raises(RunError, match=said), atomic_write(path) as file:
        file.write("newer")
    assert path.read_text() == "older" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_directory_in_the_way_is_an_error(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(RunError, match="cannot write"):
        write_json(tmp_path / "a.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("name", [".", "there", "there/.."])
def test_a_directory_is_refused_before_the_work(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(RunError, match="cannot write .*a directory"), atomic_write(name):
        raise AssertionError("the work was begun")
    assert [p.name for p in tmp_path.rglob("*")] == ["there"]


def test_json_goes_there_and_back(tmp_path):
    value = {"b": [1, 2.5, None, True], "ä": "\x1b\u202e😀\n", "z": {}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value == json.loads((tmp_path / "a.json").read_bytes())


def test_json_without_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", [float("nan")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RunError, match=r"cannot read .*a\.json"):
        read_json(tmp_path / "a.json")


def test_hashes(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1}) != sha256_json({"a": 1, "b": [3]})


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_weights_can_be_read_by_whom_other_files_can(tmp_path):
    import torch

    before = os.umask(0o027)
    try:
        write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)})
        (tmp_path / "other").write_text("")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
