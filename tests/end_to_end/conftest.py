"""One toy run by the real command, made once, and the command in this process for all that comes after it."""

import hashlib
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
SPAM = ["win", "cash", "prize", "now", "claim", "free", "award", "urgent", "call"]
HAM = ["lunch", "home", "meeting", "mum", "tomorrow", "train", "dinner", "later"]
COMMAND = ["run", "spam-classifier", "--set", "weights=random-bytes", "--set", "train.epochs=2"]
COMMAND += ["--set", "classify.audit=on"]


def toy_rows(count: int = 120, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label) rows that can be learnt but for one in eight, with quotes that close nowhere."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        label = ("ham", "spam")[number % 2]
        words = SPAM if (label == "spam") != (draw.random() < 1 / 8) else HAM
        text = " ".join(draw.choices(words, k=draw.randint(3, 7)))
        rows.append((f'"{text}' if number % 7 == 0 else text, label))
    return rows


def hashes(directory: Path) -> dict[str, str]:
    """The sha256 of every file below a directory, by its relative path."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def start(arguments: list[str], directory: Path, **more) -> subprocess.Popen:
    """The real command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "finetune", *arguments],
        cwd=directory,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **more,
    )


@pytest.fixture(scope="session")
def sms(tmp_path_factory):
    """A mirror and a registry in which sms-spam is a toy file of the real one's layout: no header, no quoting."""
    mirror = tmp_path_factory.mktemp("mirror")
    file = mirror / "sms-spam" / "SMSSpamCollection"
    file.parent.mkdir()
    rows = toy_rows()
    file.write_text("".join(f"{label}\t{text}\n" for text, label in rows), encoding="utf-8", newline="\n")
    registry = mirror / "registry.toml"
    registry.write_text(f'''[data.sms-spam]
format = "tsv"
header = false
quoting = false
columns = ["label", "text"]
[data.sms-spam.files]
SMSSpamCollection = {{ bytes = {file.stat().st_size}, sha256 = "{hashlib.sha256(file.read_bytes()).hexdigest()}" }}
''')
    environment = {"FINETUNE_MIRROR": str(mirror), "FINETUNE_REGISTRY": str(registry)}
    return SimpleNamespace(rows=rows, file=file, environment=environment)


@pytest.fixture(scope="session")
def toy(sms, tmp_path_factory):
    """A finished run of the real command; read it, and copy it to change it."""
    directory = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sms.environment.items():
            patch.setenv(name, value)
        process = start(COMMAND, directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return SimpleNamespace(
        directory=directory, run=directory / "runs" / "spam-classifier", out=out, err=err, command=COMMAND
    )


@pytest.fixture
def finetune(tmp_path, monkeypatch, capsys, sms):
    """``finetune(*arguments)`` in this process and an empty directory: its status, output and errors."""
    from finetune.cli import main

    monkeypatch.chdir(tmp_path)
    for name, value in sms.environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return SimpleNamespace(status=stopped.value.code, out=out, err=err)

    return run


@pytest.fixture
def toy_copy(toy, finetune, tmp_path):
    """A copy of the finished run, in the directory where ``finetune`` runs."""
    import shutil

    return Path(shutil.copytree(toy.run, tmp_path / "runs" / "spam-classifier"))


def run_guide(title: str, directory: Path, number: int = 0, replace: dict[str, str] | None = None) -> dict:
    """Run a block of Python below a heading of docs/deploying.md on a directory; returns its variables.

    replace: strings of the block by others, as the question that is asked.
    """
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    code = re.findall(r"^```python\n(.*?)^```", section, flags=re.M | re.S)[number]
    names: dict = {}
    for old, new in {"DIRECTORY": directory.as_posix(), **(replace or {})}.items():
        assert old in code
        code = code.replace(old, new)
    exec(code, names)
    return names


@pytest.fixture(scope="session")
def tools():
    """The functions and the words of a ham above, for the test modules beside this file."""
    return SimpleNamespace(toy_rows=toy_rows, ham=HAM, hashes=hashes, start=start, run_guide=run_guide)
