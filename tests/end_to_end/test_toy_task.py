"""The proof that this is a house: a new task is one folder and one word in the one list, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def house(tmp_path) -> Path:
    """A copy of the package with the toy task's folder in it and its name on the list."""
    ignored = shutil.ignore_patterns("__pycache__", "_assets")
    shutil.copytree(ROOT / "finetune", tmp_path / "finetune", ignore=ignored)
    for name in ("pipelines", "weights", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    before = {path for path in (tmp_path / "finetune").rglob("*") if path.is_file()}
    shutil.copytree(ROOT / "tests" / "toy_task" / "length", tmp_path / "finetune" / "tasks" / "length", ignore=ignored)
    listing = tmp_path / "finetune" / "tasks" / "__init__.py"
    lines = listing.read_text(encoding="utf-8")
    listing.write_text(lines.replace("TASKS = (", 'TASKS = ("length", '), encoding="utf-8")
    added = set((tmp_path / "finetune").rglob("*")) - before
    assert {path.parent.name for path in added if path.is_file()} == {"length"}
    return tmp_path


def run(house: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "finetune", *arguments],
        cwd=house,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(house)},
    )


def test_a_task_in_one_folder_goes_from_download_to_export_and_report(house):
    lines = [f"{'word ' * (i % 9)}{i}" for i in range(150)]
    (house / "lines.txt").write_text("\n".join(lines) + "\n")
    settings = [
        "--set",
        "task=length",
        "--set",
        "weights=random-bytes",
        "--set",
        "train.epochs=8",
        "--set",
        "train.lr=3e-3",
        "--set",
        "train.threads=1",
    ]
    done = run(house, "run", "classify", *settings, "--set", "data=lines.txt", "--set", "length.long=21")
    assert done.returncode == 0, done.stdout + done.stderr
    directory = house / "runs" / "classify"
    names = [
        f"{number:02d}-{stage}.json"
        for number, stage in enumerate(
            ("download", "verify", "prepare", "train", "evaluate", "audit", "report", "export"), 1
        )
    ]
    assert sorted(path.name for path in (directory / "stages").iterdir()) == names
    evaluation = json.loads((directory / "eval.json").read_text())
    assert evaluation["task"] == "length" and evaluation["headline"]["value"] > evaluation["commonest"]
    assert "Accuracy" in (directory / "report" / "index.html").read_text(encoding="utf-8")
    assert (directory / "export" / "hf" / "model.safetensors").exists()
    assert "length: long=21" in done.stdout
    assert (
        "nothing left to do"
        in run(house, "run", "classify", *settings, "--set", "data=lines.txt", "--set", "length.long=21").stdout
    )


def test_its_settings_have_an_owner_like_those_of_any_task(house):
    shown = run(house, "show", "classify", "--set", "task=length")
    assert shown.returncode == 0 and "[length]" in shown.stdout
    assert "characters from which a text is long" in shown.stdout
    refused = run(house, "run", "classify", "--set", "length.long=3", "--set", "data=x.csv")
    assert refused.returncode == 2 and "it is read by the task length (in prepare)" in refused.stderr
    refused = run(
        house, "run", "classify", "--set", "task=length", "--set", "evaluate.metric=f1", "--set", "data=x.txt"
    )
    assert refused.returncode == 2 and "evaluate.metric has no effect in classify (task length)" in refused.stderr
    assert not (house / "runs").exists()
