"""The examples in Python of the README and its guide, run as they stand on a few rows of the bundled sample."""

import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


def blocks_of(page: str, heading: str) -> list[str]:
    """The indented blocks below a heading of a page."""
    text = "\n" + (ROOT / page).read_text(encoding="utf-8")
    part = text.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"(?:^    .*\n)+", part, flags=re.M)
    return [re.sub(r"^    ", "", block, flags=re.M) for block in found]


@pytest.fixture
def table(tmp_path, monkeypatch):
    """my.csv in the folder where the examples run: two dozen rows of the bundled sample."""
    monkeypatch.chdir(tmp_path)
    sample = pd.read_csv(ROOT / "data" / "spam" / "sample.tsv", sep="\t", quoting=3)
    rows = sample.groupby("label").head(12)
    rows.to_csv("my.csv", index=False)
    return rows


def test_each_use_takes_five_lines_and_works(table):
    blocks = blocks_of("docs/guides/from-python.md", "# From Python")
    [short] = blocks_of("README.md", "## From Python")
    assert short == blocks[0]
    assert len(blocks) == 5 and max(block.count("\n") for block in blocks) <= 5
    names: dict = {}
    for block in blocks:
        exec(compile(block, "from-python.md", "exec"), names)
    assert set(names["clf"].classes_) == {"ham", "spam"} and names["search"].best_params_["lr"] in (2e-4, 5e-4)
    assert Path("my-bundle/model.safetensors").is_file() and Path("runs/from-python/report/index.html").is_file()
    answers, ours = names["answers"], names["run"].predict(names["table"])
    assert answers["predicted"] == ours["predicted"].tolist() and answers["text"] == table["text"].tolist()
