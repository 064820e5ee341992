"""Plant small faults in the code, one at a time, and see whether the nearest tests notice.

    make mutate                                                300 faults, drawn by seed
    python tests/mutants/mutate.py --number 60 --seed 2        others
    python tests/mutants/mutate.py --again                     the survivors once more, after tests were written

First every test file runs once on the code as it is: what it calls decides which test files are near a function (those
named after its module first, then the fastest). Then each fault is planted in a copy of the tree, and the near tests run
until one fails, in a fork of a process that has the libraries loaded. results.json has each fault with its place, its
change and whether a test noticed it, and a later call goes on from there; judged.json says of survivors why they change
nothing that matters. The exit status is 0 if at least 95 % were noticed and every survivor is judged.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from planting import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
JUDGED, RESULTS, MEASURED = HERE / "judged.json", HERE / "results.json", HERE / "measured.json"
SCOPE = ("evaluation", "training", "models", "adapters", "export", "hub", "tables/splits.py")
NEEDS_GPU = (
    "training/captured.py",
    "training/device_rows.py",
    "models/compiled.py",
)  # their tests are skipped elsewhere
TESTS = ("unit", "parity", "golden", "end_to_end", "faults")
LIBRARIES = (
    *("torch", "accelerate", "numpy", "pandas", "scipy.stats", "sklearn.linear_model", "safetensors.torch", "pytest"),
    *("matplotlib.pyplot", "transformers.models.gpt2.modeling_gpt2", "huggingface_hub", "pydantic", "tiktoken"),
)
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache", "*.egg-info")
NEAR_SECONDS = 60.0  # of tests for one fault, besides those named after the module
PATIENCE = (30.0, 5.0)  # seconds, and times the seconds that the tests took before, until they are killed
MEASURING_SECONDS = 600.0
MEMORY_BYTES = 12 << 30
NOTICED = 0.95


@dataclass
class TestFile:
    """What one run of a test file on the code as it is has shown."""

    seconds: float
    passes: bool
    size: int = 0
    called: dict[str, list[int]] = field(default_factory=dict)  # module: first lines of the functions that it called


class Copy:
    """A copy of the tree in which faults are planted, and tests run in forks of this process."""

    def __init__(self, folder: Path):
        self.root, self.temporary = folder / "tree", folder / "temporary"
        shutil.copytree(ROOT, self.root, ignore=LEFT_OUT)
        os.environ |= {"PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        sys.dont_write_bytecode = True

    def run(self, tests: list[str], seconds: float, record: Path | None = None) -> bool:
        """Whether these test files pass; a time-out, a crash and too much memory are failures."""
        pid = os.fork()
        if not pid:
            os.setsid()
            status = 1
            try:
                status = self._in_child(tests, record)
            finally:
                os._exit(status)
        deadline = time.monotonic() + seconds
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended or time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):  # also what the tests have started
                    os.killpg(pid, signal.SIGKILL)
                if not ended:
                    os.waitpid(pid, 0)
                return bool(ended) and status == 0
            time.sleep(0.02)

    def _in_child(self, tests: list[str], record: Path | None) -> int:
        import pytest

        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        os.chdir(self.root)
        sys.path[0] = str(self.root)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        called: set[tuple[str, int]] = set()

        def note(frame: FrameType, *_: object) -> None:
            called.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

        if record:
            threading.settrace(note)
            sys.settrace(note)
        options = ("-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist")
        status = pytest.main([*options, f"--basetemp={self.temporary}", *tests])
        sys.settrace(None)
        if record:
            found: dict[str, list[int]] = {}
            for file, line in sorted(called):
                if file.startswith(f"{self.root}/finetune/"):
                    found.setdefault(Path(file).relative_to(self.root).as_posix(), []).append(line)
            record.write_text(json.dumps(found), encoding="utf-8")
        return 0 if status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else 1

    def measure(self, test: str) -> TestFile:
        """Run a test file on the code as it is."""
        record, begun = self.temporary.with_name("called.json"), time.monotonic()
        record.unlink(missing_ok=True)
        passes = self.run([test], MEASURING_SECONDS, record)
        called = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        return TestFile(round(time.monotonic() - begun, 2), passes, called)

    def notices(self, module: str, mutant: Mutant, tests: list[str], seconds: float) -> bool:
        """Whether one of these test files fails with the fault planted."""
        path = self.root / module
        source = path.read_text(encoding="utf-8")
        path.write_text(mutant.planted(source), encoding="utf-8")
        try:
            return not self.run(tests, seconds)
        finally:
            path.write_text(source, encoding="utf-8")


def draw(number: int, seed: int) -> list[tuple[str, Mutant]]:
    """Modules and faults in them, each fault as likely as any other."""
    files = [
        file
        for name in SCOPE
        for file in (
            [ROOT / "finetune" / name] if name.endswith(".py") else sorted((ROOT / "finetune" / name).rglob("*.py"))
        )
    ]
    every = [
        (file.relative_to(ROOT).as_posix(), mutant)
        for file in files
        if file.relative_to(ROOT / "finetune").as_posix() not in NEEDS_GPU
        for mutant in mutants(file.read_text(encoding="utf-8"))
    ]
    return random.Random(seed).sample(every, number)


def near(module: str, mutant: Mutant, measured: dict[str, TestFile]) -> list[str]:
    """The test files that call a function, or the module of a constant: those of its name first, then the fastest."""
    stem = Path(module).stem
    calling = {
        test: found
        for test, found in measured.items()
        if found.passes
        and (mutant.first_line in found.called.get(module, ()) if mutant.first_line else module in found.called)
    }
    own = [test for test in calling if Path(test).stem.startswith(f"test_{stem}")]
    chosen, seconds = sorted(own, key=lambda test: calling[test].seconds), 0.0
    for test in sorted(calling, key=lambda test: calling[test].seconds):
        seconds += calling[test].seconds
        if test not in chosen and seconds <= NEAR_SECONDS:
            chosen.append(test)
    return chosen


def measure(copy: Copy) -> dict[str, TestFile]:
    """What each test file calls; those measured by an earlier call are not run again unless they have changed."""
    known = read(MEASURED)
    for path in (path for folder in TESTS for path in sorted((ROOT / "tests" / folder).rglob("test_*.py"))):
        test, size = path.relative_to(ROOT).as_posix(), path.stat().st_size
        if known.get(test, {}).get("size") != size:
            known[test] = vars(copy.measure(test)) | {"size": size}
            print(
                f"{test}: {known[test]['seconds']} s{'' if known[test]['passes'] else ', FAILS as it is'}", flush=True
            )
            write(MEASURED, known)
    return {test: TestFile(**entry) for test, entry in known.items()}


def main() -> None:
    """Read the options, plant the faults and list those that nothing noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="only the survivors of the last time")
    arguments = parser.parse_args()
    for name in LIBRARIES:
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    results, drawn = read(RESULTS), draw(arguments.number, arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        measured = measure(copy)
        for number, (module, mutant) in enumerate(drawn, 1):
            place, old, new = described(module, mutant)
            key = json.dumps([place, old, new], ensure_ascii=False)
            known = results.get(key)
            if known is not None and (known["noticed"] or not arguments.again):
                continue
            tests = near(module, mutant, measured)
            seconds = PATIENCE[0] + PATIENCE[1] * sum(measured[test].seconds for test in tests)
            begun = time.monotonic()
            noticed = bool(tests) and copy.notices(module, mutant, tests, seconds)
            results[key] = {"line": mutant.line, "noticed": noticed, "tests": len(tests)}
            write(RESULTS, results)
            said = "noticed" if noticed else f"SURVIVED {len(tests)} files of tests"
            print(
                f"{number}: {place}:{mutant.line}: {said} ({time.monotonic() - begun:.0f} s)\n  - {old}\n  + {new}",
                flush=True,
            )
    sys.exit(not finish(drawn, results))


def described(module: str, mutant: Mutant) -> tuple[str, str, str]:
    """The place of a fault, its line before, and after."""
    return f"{module}, {mutant.function or 'module'}", *mutant.change((ROOT / module).read_text(encoding="utf-8"))


def finish(drawn: list[tuple[str, Mutant]], results: dict[str, dict]) -> bool:
    """Print the survivors with what is said of them; whether enough were noticed, and every other judged."""
    judged = {(entry["place"], entry["old"], entry["new"]): entry["judged"] for entry in read(JUDGED)["survivors"]}
    faults = [described(module, mutant) for module, mutant in drawn]
    survivors = [fault for fault in faults if not results[json.dumps(fault, ensure_ascii=False)]["noticed"]]
    for place, old, new in survivors:
        print(f"{place}\n  - {old}\n  + {new}\n  {judged.get((place, old, new), 'NOT JUDGED')}")
    share, unjudged = 1 - len(survivors) / len(drawn), sum(fault not in judged for fault in survivors)
    print(f"noticed {len(drawn) - len(survivors)} of {len(drawn)} ({share:.1%}); survivors not judged: {unjudged}")
    return share >= NOTICED and not unjudged


def read(file: Path) -> dict:
    """A JSON file, {} where there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def write(file: Path, value: dict) -> None:
    """Write a JSON file."""
    file.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
