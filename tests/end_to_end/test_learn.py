"""``finetune learn``: the files, what is next, and what a learner sees."""

import json
from pathlib import Path

import pytest

FIRST, SECOND = Path("learn/01_merge_once.py"), Path("learn/02_causal_mask.py")
HOLE = "raise NotImplementedError  # your code goes here"


def write(path, body):
    path.write_text(path.read_text().replace(HOLE, body))


def test_a_stranger_solves_the_first_and_is_told_the_next(finetune):
    first = finetune("learn")
    assert first.status == 0 and "next   1  Merge bytes" in first.out and f"open {FIRST} in an editor" in first.out
    assert len(list(Path("learn").glob("*.py"))) == 15

    hole = finetune("learn", "check")
    assert hole.status == 2 and f"{FIRST}, line 2" in hole.err and "has not been written yet" in hole.err
    hint = finetune("learn", "hint")
    assert "lowest rank" in hint.out and "In this project: finetune/tokenizer.py:" in hint.out

    write(FIRST, "from finetune.tokenizer import merge_once as own\n    return own(parts, ranks)")
    solved = finetune("learn", "check")
    assert solved.status == 0 and "1 Merge bytes: how a word becomes tokens: right" in solved.out
    assert f"Next: {SECOND}" in solved.out
    before = FIRST.read_text()
    again = finetune("learn")
    assert "done   1" in again.out and "next   2" in again.out and FIRST.read_text() == before
    assert json.loads(Path("learn/progress.json").read_text())["solved"] == ["merge-once"]


def test_what_the_model_says_with_a_bug_is_shown(finetune):
    finetune("learn")
    write(SECOND, "return torch.ones(length, length).triu().bool()")
    wrong = finetune("learn", "check", "causal-mask")
    assert wrong.status == 2 and "not right yet" in wrong.out and "with yours:    The river is" in wrong.out
    assert "For a hint: " in wrong.err and "learn hint 2" in wrong.err
    assert json.loads(Path("learn/progress.json").read_text())["solved"] == []


@pytest.mark.parametrize(
    "body, parts",
    [
        ("return lenght", [f"{SECOND}, line 2", "NameError; got name 'lenght'", "The line is: return lenght"]),
        ("return [[True]]", ["causal_mask did not return a tensor; got [[True]]", "of shape ("]),
        ("return torch.ones(length)", ["causal_mask returned a tensor of the wrong shape"]),
        ("return torch.ones(length, length).tril()", ["returned a tensor of the wrong type; got torch.float32"]),
        ("return ((", [f"{SECOND}, line 2", "this is not Python"]),
        ("return torch.ones(length, length) @ torch.ones(3)", [f"{SECOND}, line 2", "RuntimeError"]),
    ],
)
def test_a_mistake_is_named_with_its_line(finetune, body, parts):
    finetune("learn")
    write(SECOND, body)
    wrong = finetune("learn", "check", "2")
    assert wrong.status == 2 and "Traceback" not in wrong.err
    assert all(part in wrong.err for part in parts), wrong.err


def test_what_cannot_be_done_is_said(finetune):
    unknown = finetune("learn", "check", "causal-masc")
    assert unknown.status == 2 and "no exercise 'causal-masc'" in unknown.err and "causal-mask" in unknown.err
    finetune("learn", "--dir", "mine")
    Path("mine/01_merge_once.py").write_text("x = 1\n")
    renamed = finetune("learn", "check", "--dir", "mine")
    assert renamed.status == 2 and "no function merge_once" in renamed.err
    Path("file").write_text("")
    assert "not a folder" in finetune("learn", "--dir", "file").err
