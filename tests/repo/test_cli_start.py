"""The command line answers at once because it imports nothing heavy before it must."""

import re
import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "pandas",
    "sklearn",
    "scipy",
    "matplotlib",
    "numpy",
    "transformers",
    "datasets",
    "accelerate",
    "huggingface_hub",
    "tiktoken",
    "jinja2",
    "pooch",
}


def imports_of(root, *arguments: str) -> tuple[int, set[str], str]:
    """Exit status, top-level modules and standard output of ``python -X importtime ARGUMENTS``."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    modules = re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\w+)", done.stderr, flags=re.M)
    return done.returncode, set(modules), done.stdout


def test_help_starts_without_heavy_modules(root):
    status, modules, text = imports_of(root, "-m", "finetune", "--help")
    assert status == 0 and "doctor" in text
    assert "typer" in modules and not modules & HEAVY


def test_listing_pipelines_starts_without_heavy_modules(root):
    status, modules, text = imports_of(root, "-m", "finetune", "ls")
    assert status == 0 and "spam-classifier" in text
    assert not modules & HEAVY


@pytest.mark.parametrize("command", [["show", "spam-methods"], ["show", "seq2seq"], ["cp", "instruct", "mine.toml"]])
def test_settings_are_shown_without_heavy_modules(root, tmp_path, monkeypatch, command):
    monkeypatch.setenv("PYTHONPATH", str(root))
    status, modules, _ = imports_of(tmp_path, "-m", "finetune", *command)
    assert status == 0 and not modules & HEAVY


def test_importing_the_package_is_cheap(root):
    status, modules, _ = imports_of(root, "-c", "import finetune; print(finetune.__version__)")
    assert status == 0 and "finetune" in modules
    assert not modules & (HEAVY | {"typer", "pydantic"})


def test_an_unknown_picture_is_refused_without_heavy_modules(root):
    status, modules, _ = imports_of(root, "-m", "finetune", "draw", "atention")
    assert status == 2 and not modules & HEAVY
