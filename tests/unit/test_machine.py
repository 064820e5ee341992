"""The machine: what a record says of it, and what a block of work held and took."""

import json
import os
import platform
import subprocess
import sys

import pytest

from finetune.machine import git_commit, hardware, peak_memory_bytes, timed, versions


def test_a_record_names_versions_and_machine_but_no_person():
    import torch

    assert versions()["python"] == platform.python_version()
    assert versions()["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert hardware()["cores"] == os.cpu_count() and platform.node() not in json.dumps(hardware())
    commit = git_commit()
    assert commit is None or (len(commit) == 40 and int(commit, 16) >= 0)


def test_the_commit_is_the_checkouts_own(tmp_path, monkeypatch):
    import shutil

    for name in ("objects", "refs"):
        (tmp_path / ".git" / name).mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text("ab" * 20 + "\n")
    for parts in (("finetune",), ("site-packages", "finetune")):
        tmp_path.joinpath(*parts).mkdir(parents=True)
    monkeypatch.setattr("finetune.machine.__file__", str(tmp_path / "finetune" / "machine.py"))
    assert git_commit() == ("ab" * 20 if shutil.which("git") else None)
    monkeypatch.setattr("finetune.machine.__file__", str(tmp_path / "site-packages" / "finetune" / "machine.py"))
    assert git_commit() is None  # an environment within somebody's repository


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_bytes()
    held = bytearray(os.urandom(1) * (before + (64 << 20)))
    assert peak_memory_bytes() >= before + (32 << 20) and len(held) > before


def test_seconds_are_counted():
    import time

    with timed() as seconds:
        time.sleep(0.02)
    assert 0.02 <= seconds() < 5


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("variable", ["", "MALLOC_TRIM_THRESHOLD_"])
def test_freed_memory_is_kept_until_it_is_released_unless_glibc_was_told_otherwise(variable):
    """In a process of its own: the setting cannot be taken back."""
    code = """
import resource, psutil, torch
from finetune.machine import keep_freed_memory, release_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    before = faults()
    for _ in range(4):
        torch.ones(16 << 20)  # 64 MB
    return faults() - before
first = use()
keep_freed_memory()
for _ in range(4):  # the heap grows to its size
    use()
kept, held = use(), psutil.Process().memory_info().rss
release_memory()
print(first, kept, held - psutil.Process().memory_info().rss)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({variable: "131072"} if variable else {})
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    first, kept, released = map(int, done.stdout.split())
    if variable:
        assert kept > first / 2
    else:
        assert kept < first / 20 and released > 50 << 20
