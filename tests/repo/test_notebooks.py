"""The notebooks run from top to bottom, offline, and are kept without outputs."""

import importlib.util
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def code_of(notebook: Path) -> list[dict]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """With nbclient where it is installed, else its cells in order in one namespace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    if importlib.util.find_spec("nbclient") and importlib.util.find_spec("ipykernel"):
        import nbformat
        from nbclient import NotebookClient

        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
        assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    else:
        namespace: dict[str, object] = {}
        for cell in code_of(path):
            exec("".join(cell["source"]), namespace)
        assert {"finetune"} <= set(namespace)


def test_notebooks_are_kept_without_outputs():
    assert len(NOTEBOOKS) == 2
    kept = [path.name for path in NOTEBOOKS for cell in code_of(path) if cell["outputs"] or cell["execution_count"]]
    assert not kept, kept
