"""Fail every write of a run in turn, as a full disk would, and run it in file systems that are too small.

    python tests/faults/campaigns/disk.py               each write of a small run, some minutes
    python tests/faults/campaigns/disk.py --every 10    each tenth

A try holds if the command ends with status 2 and a message that names a file, and the same command, once there is room,
ends with the results of a run that nothing disturbed. Small file systems need root (mount -t tmpfs) and are for writers
in C and Rust, which Python does not see; without root they are left out, and the row is not written.
"""

import argparse
import contextlib
import errno
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import fuzz
import kills
import record

WRITES = os.O_WRONLY | os.O_RDWR
CHANGES = ("os.mkdir", "os.rename", "os.symlink", "os.link")
RUN = (
    *("classify", "table.csv", "--name", "killed", "--set", "weights=scratch"),
    *("--set", "shape.layers=1", "--set", "shape.width=16", "--set", "shape.heads=2", "--set", "shape.context=64"),
    *("--set", "train.epochs=2", "--set", "train.threads=1", "--set", "evaluate.resamples=100"),
)
COMMAND = "python tests/faults/campaigns/disk.py --keep"


class FullDisk:
    """Counts this process's writes below a folder, and lets the n-th and all later ones fail."""

    def __init__(self, folder: Path, fail_at: int):
        self.folder, self.fail_at, self.count, self.failed = str(folder), fail_at, 0, ""
        sys.addaudithook(self.hook)

    def hook(self, event: str, given: tuple) -> None:
        """Raise OSError for a write that no longer fits; called for every audited event."""
        if event == "open":
            path, _, flags = given
            if not isinstance(flags, int) or not flags & WRITES:
                return
        elif event in CHANGES:
            path = given[0]
        else:
            return
        if not isinstance(path, str | os.PathLike) or not os.path.abspath(path).startswith(self.folder):
            return
        self.count += 1
        if self.count >= self.fail_at:
            self.failed = self.failed or os.path.basename(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))


def in_child(folder: Path, fail_at: int) -> tuple[int, str, int]:
    """The run in a fork of this process: its exit status, what it said, and how many writes it made."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        os.chdir(folder)
        said, status = io.StringIO(), 0
        disk = FullDisk(folder, fail_at)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                from finetune.cli import main

                sys.argv = ["finetune", *RUN]
                main()
            except SystemExit as stop:
                status = int(stop.code or 0)
            except BaseException as error:
                status = 1
                print(f"Traceback: {error!r}", file=said)
        os.write(writer, f"{disk.count}\n{said.getvalue()[-3000:]}".encode())
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
        count, _, said = lines.read().partition("\n")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said, int(count or 0)


def place(folder: Path, table: Path) -> Path:
    """A fresh folder with the table."""
    folder.mkdir()
    shutil.copy(table, folder / "table.csv")
    return folder


def wrong_with(status: int, said: str, folder: Path, expected: dict[str, str]) -> str:
    """What does not hold of a run that ended with `status` on a full disk; it is run again with room."""
    if status not in (0, 2) or "Traceback" in said:
        return f"status {status}: {said.strip().splitlines()[-1:]}"
    if status == 2 and not any(line.startswith("error: ") for line in said.splitlines()):
        return "status 2 without an error"
    again, words, _ = in_child(folder, 10**9)
    if again:
        return f"not finished with room: {words.strip().splitlines()[-1:]}"
    return "; ".join(kills.differences(folder / "runs" / "killed", expected))


def every_write(folder: Path, table: Path, first: int, every: int) -> tuple[record.Row, dict[str, str]]:
    """Let each write fail in turn; also the results of the undisturbed run."""
    whole = place(folder / "whole", table)
    status, said, writes = in_child(whole, 10**9)
    if status:
        raise SystemExit(said)
    expected, failures, tried = kills.results(whole / "runs" / "killed"), [], 0
    for number in range(first, writes + 1, every):
        here = place(folder / f"write-{number}", table)
        status, said, _ = in_child(here, number)
        wrong = wrong_with(status, said, here, expected)
        failures += [f"write {number}: {wrong}"] if wrong else []
        tried += 1
        shutil.rmtree(here)
    fault, holds = (
        "every write of a run",
        "status 2 and the file's name; with free space, the same command gives the same result bit for bit",
    )
    return record.Row("Full disk", fault, holds, tried, tried - len(failures), COMMAND, tuple(failures)), expected


def small_systems(folder: Path, table: Path, expected: dict[str, str], sizes: range) -> record.Row | None:
    """Runs in file systems of growing size (kB); None where they cannot be mounted."""
    failures, here = [], folder / "small"
    here.mkdir()
    for size in sizes:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(here)]
        if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            return None
        try:
            shutil.copy(table, here / "table.csv")
            status, said, _ = in_child(here, 10**9)
            subprocess.run(["mount", "-o", "remount,size=100m", str(here)], check=True)
            wrong = wrong_with(status, said, here, expected)
            failures += [f"{size} kB: {wrong}"] if wrong else []
        finally:
            subprocess.run(["umount", str(here)], check=True)
    tried = len(sizes)
    fault, holds = (
        "small file systems",
        "status 2 and an error; with free space, the same command gives the same result bit for bit",
    )
    return record.Row("Full disk", fault, holds, tried, tried - len(failures), COMMAND, tuple(failures))


def main() -> None:
    """Read the options and fill the disk."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="let only each so-many-th write fail")
    parser.add_argument("--first", type=int, default=1, help="the first write to fail")
    parser.add_argument("--sizes", type=int, default=40, help="how many small file systems")
    parser.add_argument("--keep", action="store_true", help="write the rows into record.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        fuzz.prepare(folder)  # also imports, once, everything that the forks need
        table = folder / "tables" / "table.csv"
        row, expected = every_write(folder, table, arguments.first, arguments.every)
        rows = [row]
        if arguments.sizes:
            small = small_systems(folder, table, expected, range(20, 20 + 25 * arguments.sizes, 25))
            rows += [small] if small else []
        os.chdir(record.ROOT)
    record.finish(rows, arguments.keep)


if __name__ == "__main__":
    main()
