"""Run the tests of tests/faults and write how many of each kind hold into the record.

python tests/faults/campaigns/suites.py --keep        ten minutes on one core
"""

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import record

FAULTS = {  # what is tried: the file of tests, how it holds
    "SIGINT and SIGTERM in every stage, once and twice": (
        "test_interrupts.py",
        "the step is finished and saved, status 130, and the command that it names resumes to the same result bit for bit",
    ),
    "a kill at each file operation of a checkpoint": (
        "test_resume.py",
        "training resumes to the same result bit for bit",
    ),
    "hubs that cut, stall, lie, redirect or serve another file": (
        "test_download.py",
        "the right file, resumed or fetched again, or a clear error; nothing wrong in the cache",
    ),
    "archives that are truncated, damaged, packed differently or endless": (
        "test_archive.py",
        "the pinned member, or an error",
    ),
    "no network, a slow one, a name server that hangs": ("test_network.py", "an answer in time, and only one probe"),
    "weights with pickles, lying headers, NaN, other shapes": ("test_weights.py", "an error; nothing is run or loaded"),
    "odd tables": ("test_odd_tables.py", "read as intended, with a note, or an error that says what to do"),
    "bad commands, settings and data": ("test_bad_input.py", "status 2 and an error in four parts; no run is made"),
    "files of a run that are edited, linked or damaged": ("test_run_files.py", "detected by hash, rebuilt or refused"),
    "bundles that are damaged or replaced while in use": ("test_bundles.py", "refused, or one whole bundle is used"),
    "two processes at once": ("test_concurrency.py", "one wins, the other says so; no file is mixed"),
    "JSON nested 100,000 deep, files that unpack to gigabytes, labels that look like commands": (
        "test_hostile.py",
        "a clear error, or read as text; nothing written elsewhere",
    ),
    "texts that are truncated, endless or slow to parse": ("test_texts.py", "read as text, in bounded time and memory"),
}


def count(file: str) -> tuple[int, list[str]]:
    """How many tests of a file ran, and which of them failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                f"--junit-xml={report}",
                "-p",
                "no:cacheprovider",
                f"tests/faults/{file}",
            ],
            cwd=record.ROOT,
            env=os.environ | {"PYTHONPATH": str(record.ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
        cases = list(ElementTree.parse(report).iter("testcase"))
    ran = [case for case in cases if case.find("skipped") is None]
    failed = [
        case.get("name", "") for case in ran if case.find("failure") is not None or case.find("error") is not None
    ]
    return len(ran), failed


def main() -> None:
    """Read the options and run the tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="write the rows into record.json")
    parser.add_argument("--only", nargs="+", metavar="FILE", help="these files of tests")
    arguments = parser.parse_args()
    rows = []
    for fault, (file, holds) in FAULTS.items():
        if arguments.only and file not in arguments.only:
            continue
        tried, failed = count(file)
        command = "python tests/faults/campaigns/suites.py --keep"
        rows.append(record.Row("Tests", fault, holds, tried, tried - len(failed), command, tuple(failed)))
        print(f"{fault}: {tried - len(failed)} of {tried}", flush=True)
    record.finish(rows, arguments.keep)


if __name__ == "__main__":
    main()
