"""A planted shortcut, a planted bad slice and a planted leak of near duplicates are each found by the report of a run."""

import csv
import json
import random
import shutil
import subprocess

import pytest

from finetune.report.build import build_report
from finetune.tasks.base import task_named

WORDS = ["lunch", "home", "train", "work", "later", "call", "meet", "friend", "dinner", "movie", "week", "garden"]
WORDS += ["river", "paper", "window", "music"]
SIGNS = {"ham": "maybe", "spam": "claim"}


def planted_rows(count=420, seed=0):
    """(text, label) rows: one word tells the label but for one row in eight, except in rows with a digit, which are noise.

    Every fifth row is nearly the text of the one before.
    """
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        label = draw.choice(["ham", "spam"])
        if number % 5 == 4:
            text, label = rows[-1]
            rows.append((text + "!", label))
            continue
        words = draw.choices(WORDS, k=8)
        if number % 4 == 0:
            words.append(f"{draw.randint(100, 999)} {SIGNS[draw.choice(['ham', 'spam'])]}")  # says nothing of the label
        else:
            words.append(SIGNS[label])
        rows.append((" ".join(words), label))
    return rows


@pytest.fixture(scope="module")
def planted(tmp_path_factory, tools, sms):
    """A finished run on the planted rows, and its report."""
    directory = tmp_path_factory.mktemp("planted")
    rows = planted_rows()
    names = ["train"] * 240 + ["val"] * 60 + ["test"] * 120
    draw = random.Random(1)
    draw.shuffle(names)
    lines = ["text,label,part", *(f"{text},{label},{name}" for (text, label), name in zip(rows, names, strict=True))]
    (directory / "planted.csv").write_text("\n".join(lines) + "\n")
    command = ["classify", "planted.csv", "--split", "part", "--weights", "mini", "--name", "planted"]
    command += ["--set", "train.epochs=3", "--set", "evaluate.resamples=100", "--until", "report"]
    process = tools.start(command, directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    run = directory / "runs" / "planted"
    return run, json.loads((run / "explanations.json").read_text()), (run / "report" / "report.md").read_text()


def test_the_planted_shortcut_is_found(planted):
    _, found, report = planted
    assert found["shortcut"]["rule"] in ("contains 'claim'", "contains 'maybe'")
    assert found["shortcut"]["accuracy"]["value"] > 0.8
    assert f"a text that {found['shortcut']['rule']} is" in report.replace("\\", "")


def test_the_planted_slice_is_found(planted):
    run, found, report = planted
    worst = found["slices"]["shown"][0]
    test = [json.loads(line) for line in (run / "data" / "test.jsonl").read_text().splitlines()]
    assert worst["name"] == "a digit" and worst["p_value"] < 0.05
    assert worst["score"]["n"] == sum(any(map(str.isdigit, row["text"])) for row in test)
    assert worst["score"]["value"] < worst["rest"] - 0.2
    assert "worse on these slices (subsets of the test rows) than on the other rows: a digit" in report.replace(
        "\\", ""
    )


def test_the_planted_leak_is_found_with_the_metric_on_the_rest(planted):
    run, found, report = planted
    rows = {
        name: [json.loads(line) for line in (run / "data" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "val", "test")
    }
    seen = {row["text"].rstrip("!") for name in ("train", "val") for row in rows[name]}
    leaked = [row["text"].rstrip("!") in seen for row in rows["test"]]
    assert found["near"]["rows"] == sum(leaked) > 10 and found["near"]["n"] == len(leaked) - sum(leaked)
    with open(run / "predictions.csv", newline="") as file:
        right = [row["label"] == row["predicted"] for row in csv.DictReader(file)]
    rest = [own for own, leak in zip(right, leaked, strict=True) if not leak]
    assert found["near"]["metrics"]["accuracy"]["value"] == pytest.approx(sum(rest) / len(rest))
    assert "rows without a near duplicate" in report


def test_errors_come_with_pieces_and_training_rows(planted):
    run, found, report = planted
    train = {
        (row["row"], row["text"], row["label"])
        for row in map(json.loads, (run / "data" / "train.jsonl").read_text().splitlines())
    }
    assert 0 < len(found["errors"]) <= 10
    for error in found["errors"]:
        assert error["label"] != error["predicted"] and 0 < len(error["spans"]) <= 5
        assert {(near["row"], near["text"], near["label"]) for near in error["neighbours"]} <= train
    assert len(found["flips"]) == 8 and "it does not prove a cause" in report


def test_findings_have_their_codes_and_can_be_muted(planted, tmp_path):
    run, _, report = planted
    assert "FT060" in report and "FT061" in report
    copy = shutil.copytree(run, tmp_path / "runs" / "planted")
    recipe = json.loads((copy / "recipe.json").read_text())
    (copy / "recipe.json").write_text(json.dumps(recipe | {"ignore": ["FT061"]}))
    build_report(copy, {"classify": task_named("classify").page})
    muted = (copy / "report" / "report.md").read_text()
    rows = [line.split(" | ")[0] for line in muted.splitlines()]
    assert "| FT060" in rows and "| FT061" not in rows
