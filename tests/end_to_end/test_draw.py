"""The command that draws: where its pictures go, and what it refuses."""

import subprocess
from pathlib import Path

import pytest

NAMES = ("both", "causal", "padding")


def test_draw_writes_a_folder_of_pictures(finetune):
    found = finetune("draw", "masks", "--text", "The bank was closed")
    assert found.status == 0 and Path(found.out.strip()) == Path("pictures/index.html")
    expected = {"index.html", "pictures.json", *(f"masks-{name}.{end}" for name in NAMES for end in ("png", "svg"))}
    assert {path.name for path in Path("pictures").iterdir()} == expected
    assert finetune("draw", "schedule", "--recipe", "pretrain-mini", "--out", "mine").status == 0
    page = Path("mine/index.html").read_text(encoding="utf-8")
    assert "Learning rate of pretrain-mini" in page and "first 0.02% of the steps" in page


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["atention"], "did you mean 'attention'? For example: finetune draw all"),
        (["attention", "--layer", "6"], "no such layer; got 6; known: 0 to 5"),
        (["attention", "--text", ""], "the text is empty"),
        (["attention", "--text", "bank " * 300], "longer than the model's context"),
        (["masks", "--weights", "mini"], "masks does not use --weights"),
        (["attention", "--weights", "minni"], "unknown weights 'minni'"),
        (["schedule", "--recipe", "spam"], "no pipeline or recipe file 'spam'"),
        (["beams", "--beams", "9"], "got 9; known: 2 to 5"),
    ],
)
def test_draw_refuses_what_it_cannot_draw(finetune, arguments, part):
    found = finetune("draw", *arguments)
    assert found.status == 2 and part in found.err and "Traceback" not in found.err
    assert not Path("pictures").exists()


def test_the_default_folder_is_not_for_git(finetune):
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        for path, ignored in (("pictures/index.html", True), ("finetune/pictures/draw.py", False)):
            done = subprocess.run(["git", "check-ignore", "--no-index", "-q", path], cwd=root)
            assert (done.returncode == 0) == ignored, path
