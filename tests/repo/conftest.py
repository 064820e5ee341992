"""The checkout as data: its files, and the package's modules as syntax trees."""

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def files(root) -> list[str]:
    """Every file of the checkout that .gitignore does not name, relative and with forward slashes."""
    lines = (root / ".gitignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.strip().removesuffix("/") for line in lines if line.strip() and not line.startswith("#")]
    ignored = [".git", *patterns]
    found, folders = [], [root]
    while folders:
        for path in folders.pop().iterdir():
            names = (path.name, "/" + path.relative_to(root).as_posix())  # a leading slash: at the root alone
            if any(fnmatch(name, pattern) for name in names for pattern in ignored) or path.is_symlink():
                continue
            if path.is_dir():
                folders.append(path)
            else:
                found.append(path.relative_to(root).as_posix())
    return sorted(found)


@pytest.fixture(scope="session")
def modules(root) -> dict[str, ast.Module]:
    """The package's modules by dotted name: ``finetune.models.gpt``, ``finetune.models``."""
    trees = {}
    for path in sorted((root / "finetune").rglob("*.py")):
        if "_assets" in path.parts:
            continue
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return trees
