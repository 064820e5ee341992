"""Plant small faults in the code, one at a time, and see whether the nearest tests notice.

    make mutate                                                300 faults, drawn by seed
    python tests/mutants/mutate.py --number 60 --seed 2        others
    python tests/mutants/mutate.py --again                     the survivors once more, after tests were written

Each fault is planted in a copy of the tree, and the near tests run until one fails, in a fork of a process that has the
libraries loaded: first the test files named after the module, then those that import it, then those that import a module
which imports it, for at most --seconds of CPU time; of each kind those that take long last (measured.json has the seconds
of each file, and gets those of new ones). A test file that fails on the code as it is does not count. results.json has each
fault and whether a test noticed it, and a later call goes on from there; judged.json says of survivors why they are equal
in effect: they change nothing that a user or a caller could see, or only time. The mutation score leaves these out
(DeMillo, Lipton and Sayward 1978, Computer 11(4)). The exit status is 0 if it is at least 95 % and no survivor is unjudged.
"""

import argparse
import ast
import compileall
import contextlib
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from planting import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
JUDGED, RESULTS, MEASURED = HERE / "judged.json", HERE / "results.json", HERE / "measured.json"
SCOPE = ("evaluation", "training", "models", "adapters", "export", "hub", "tables/splits.py")
NEEDS_GPU = ("training/captured.py", "training/device_rows.py", "models/compiled.py")  # tested where there is one
TESTS = ("unit", "parity", "golden", "end_to_end", "faults")  # nearer ones first
LIBRARIES = (
    *("torch", "accelerate", "numpy", "pandas", "scipy.stats", "sklearn.linear_model", "safetensors.torch", "pytest"),
    *("matplotlib.pyplot", "transformers.models.gpt2.modeling_gpt2", "huggingface_hub", "pydantic", "tiktoken"),
)
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache", "*.egg-info")
CPU_SECONDS = 90  # of one test file: an endless loop is noticed
WALL_SECONDS = 180.0  # the same for a test that waits for ever
MEMORY_BYTES = 12 << 30
HEAVY_SECONDS = 20.0  # of CPU, from which a test file comes after the others that are as near
PROCESSES = ("end_to_end", "faults")  # tests that start processes are heavy until they were measured
NOTICED = 0.95


@dataclass(frozen=True)
class Drawn:
    """A fault to plant, with its place, its line before, and after."""

    module: str  # the path
    mutant: Mutant
    place: str
    old: str
    new: str

    @property
    def key(self) -> str:
        """The name in results.json."""
        return json.dumps([self.place, self.old, self.new], ensure_ascii=False)


class Copy:
    """A copy of the tree in which faults are planted, and tests run in forks of this process."""

    def __init__(self, folder: Path):
        self.root, self.temporary = folder / "tree", folder / "temporary"
        self.known: dict[str, bool] = {}  # which test files pass on the code as it is
        self.measured: dict[str, float] = read(MEASURED)
        shutil.copytree(ROOT, self.root, ignore=LEFT_OUT)
        compileall.compile_dir(self.root / "finetune", quiet=2)
        os.environ |= {"PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        sys.dont_write_bytecode = True

    def run(self, test: str) -> tuple[bool, float]:
        """Whether a test file passes, and its CPU seconds; a time-out, a crash and too much memory are failures."""
        pid = os.fork()
        if not pid:
            os.setpgid(0, 0)  # not a session of its own, which would lose the priority of this one
            status = 1
            try:
                status = self._in_child(test)
            finally:
                os._exit(status)
        deadline = time.monotonic() + WALL_SECONDS
        while True:
            ended, status, used = os.wait4(pid, os.WNOHANG)
            if ended or time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):  # also what the tests have started
                    os.killpg(pid, signal.SIGKILL)
                if not ended:
                    _, status, used = os.wait4(pid, 0)
                return status == 0, used.ru_utime + used.ru_stime
            time.sleep(0.02)

    def _in_child(self, test: str) -> int:
        import pytest

        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        os.chdir(self.root)
        sys.path[0] = str(self.root)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        options = ("-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist")
        status = pytest.main([*options, f"--basetemp={self.temporary}", test])
        return 0 if status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else 1

    def passes_as_it_is(self, test: str) -> bool:
        """Whether a test file passes on the code as it is."""
        if test not in self.known:
            self.known[test] = self.run(test)[0]
            if not self.known[test]:
                print(f"{test} FAILS on the code as it is, and does not count", flush=True)
        return self.known[test]

    def noticed_by(self, fault: Drawn, tests: list[str], seconds: float) -> str:
        """The first of these test files that fails with the fault planted; "" if none does within so many seconds."""
        path = self.root / fault.module
        source = path.read_text(encoding="utf-8")
        for test in tests:
            path.write_text(fault.mutant.planted(source), encoding="utf-8")
            try:
                passes, took = self.run(test)
            finally:
                path.write_text(source, encoding="utf-8")
            if not passes and self.passes_as_it_is(test):
                return test
            if passes and test not in self.measured:
                self.measured[test] = round(took, 1)
                write(MEASURED, dict(sorted(self.measured.items())))
            seconds -= took
            if seconds < 0:
                break
        return ""


def draw(number: int, seed: int) -> list[Drawn]:
    """Faults, each as likely as any other; a change of the code changes only those in its lines."""
    files = [
        file
        for name in SCOPE
        for file in (
            [ROOT / "finetune" / name] if name.endswith(".py") else sorted((ROOT / "finetune" / name).rglob("*.py"))
        )
        if file.relative_to(ROOT / "finetune").as_posix() not in NEEDS_GPU
    ]
    every = {}
    for file in files:
        module, source = file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")
        for mutant in mutants(source):
            fault = Drawn(module, mutant, f"{module}, {mutant.function or 'module'}", *mutant.change(source))
            every[hashlib.sha256(f"{seed} {fault.key}".encode()).digest()] = fault
    return [every[rank] for rank in sorted(every)[:number]]


def imports(file: Path, modules: set[str]) -> set[str]:
    """The modules, such as ``finetune.models.gpt``, that a file imports anywhere in it, or names in a string."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value, node.value.rpartition(".")[0]}
    return found & modules


class Nearness:
    """Which test files are near a module."""

    def __init__(self) -> None:
        sources = {_dotted(file): file for file in sorted((ROOT / "finetune").rglob("*.py"))}
        tests = [file for folder in TESTS for file in sorted((ROOT / "tests" / folder).rglob("test_*.py"))]
        self.of_modules = {name: imports(file, set(sources)) for name, file in sources.items()}
        self.of_tests = {file: imports(file, set(sources)) for file in tests}
        self.measured: dict[str, float] = read(MEASURED)

    def heavy(self, file: Path) -> bool:
        """Whether a test file takes long."""
        usual = HEAVY_SECONDS if file.relative_to(ROOT / "tests").parts[0] in PROCESSES else 0.0
        return self.measured.get(file.relative_to(ROOT).as_posix(), usual) >= HEAVY_SECONDS

    def tests(self, module: str) -> list[str]:
        """Test files: named after the module, importing it, importing a module that imports it; of those, fast ones, near
        folders and test files of few modules first."""
        name, stem, folder = _dotted(ROOT / module), Path(module).stem, Path(module).parent.name
        users = {own for own, used in self.of_modules.items() if name in used}

        def distance(file: Path) -> int:
            named = file.stem.startswith(f"test_{stem}")
            if named and file.parent.name in (folder, "parity", "end_to_end"):
                return 0
            return 1 if name in self.of_tests[file] else 2 if users & self.of_tests[file] else 3

        def nearness(file: Path) -> tuple[int, bool, bool, int]:
            return distance(file), self.heavy(file), file.parent.name != folder, len(self.of_tests[file])

        ordered = sorted(self.of_tests, key=nearness)
        return [file.relative_to(ROOT).as_posix() for file in ordered if distance(file) < 3]


def _dotted(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def main() -> None:
    """Read the options, plant the faults and list those that nothing noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="of CPU time for the tests of one fault")
    parser.add_argument("--again", action="store_true", help="only the survivors of the last time")
    arguments = parser.parse_args()
    results, drawn = read(RESULTS), draw(arguments.number, arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_HOME": folder, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # read at import
        for name in LIBRARIES:
            importlib.import_module(name)
        sys.modules["torch"].set_num_threads(1)
        copy = Copy(Path(folder))
        nearness = Nearness()
        for number, fault in enumerate(drawn, 1):
            known = results.get(fault.key)
            if known is not None and (known["noticed"] or not arguments.again):
                continue
            begun = time.monotonic()
            noticed = copy.noticed_by(fault, nearness.tests(fault.module), arguments.seconds)
            results[fault.key] = {"line": fault.mutant.line, "noticed": noticed}
            write(RESULTS, results)
            said, took = f"noticed by {noticed}" if noticed else "SURVIVED", time.monotonic() - begun
            print(
                f"{number}: {fault.place}:{fault.mutant.line}: {said} ({took:.0f} s)\n  - {fault.old}\n  + {fault.new}",
                flush=True,
            )
    sys.exit(not finish(drawn, results))


def finish(drawn: list[Drawn], results: dict[str, dict]) -> bool:
    """Print the survivors with what is said of them, and the shares; whether the mutation score is reached and all judged."""
    judged = {json.dumps(entry["fault"], ensure_ascii=False): entry["judged"] for entry in read(JUDGED)["survivors"]}
    survivors = [fault for fault in drawn if not results[fault.key]["noticed"]]
    for fault in survivors:
        print(f"{fault.place}\n  - {fault.old}\n  + {fault.new}\n  {judged.get(fault.key, 'NOT JUDGED')}")
    noticed, unjudged = len(drawn) - len(survivors), sum(fault.key not in judged for fault in survivors)
    change = noticed + unjudged
    print(
        f"noticed {noticed} of {len(drawn)} ({noticed / len(drawn):.1%}), and {noticed / max(change, 1):.1%} of the {change} "
        f"that are not judged equal in effect; survivors not judged: {unjudged}"
    )
    return noticed >= NOTICED * change and not unjudged


def read(file: Path) -> dict:
    """A JSON file, {} where there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def write(file: Path, value: dict) -> None:
    """Write a JSON file."""
    file.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
