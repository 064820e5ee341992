"""Slices and comparisons of the tasks that write texts: a bad slice is found, runs are compared row by row."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import CHRF
from statsmodels.stats.contingency_tables import mcnemar

TINY = ["--set", "weights=scratch", "--set", "shape.layers=1", "--set", "shape.width=32", "--set", "shape.context=96"]
TINY += ["--set", "train.threads=1", "--set", "train.lr=0.01", "--until", "report"]
COLOURS, NUMBERS = ["red", "green", "blue", "brown"], ["one", "two", "three", "four", "five"]


def write_records():
    """Records of two sources: in the noisy one the answer says nothing of the question."""
    draw = random.Random(0)
    lines = []
    for number in range(400):
        word, colour = draw.choice(NUMBERS), draw.choice(COLOURS)
        noisy = number % 3 == 0
        answer = draw.choice(NUMBERS) if noisy else word
        lines.append(
            {
                "instruction": f"Say {word} {number}",
                "input": colour,
                "output": answer,
                "source": "forum" if noisy else "book",
            }
        )
    Path("records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def rows_of(run, name):
    with open(run / name, newline="", encoding="utf-8") as file:
        return sorted(csv.DictReader(file), key=lambda row: int(row["row"]))


def test_answers_of_a_bad_source_are_a_slice_and_runs_are_compared(finetune):
    write_records()
    more = ["--set", "data=records.jsonl", "--set", "instruct.max_new_tokens=6", *TINY]
    bad = finetune("run", "instruct", *more, "--set", "evaluate.slice_by=origin")
    assert bad.status == 2 and "no record has the field 'origin'" in bad.err
    done = finetune(
        "run", "instruct", *more, "--set", "evaluate.slice_by=source", "--set", "train.epochs=6", "--name", "long"
    )
    assert done.status == 0, done.err
    found = json.loads(Path("runs/long/eval.json").read_text())["slices"]
    rows = rows_of(Path("runs/long"), "answers.csv")
    sources = {
        number: json.loads(line)["source"] for number, line in enumerate(Path("records.jsonl").read_text().splitlines())
    }
    right = np.array([row["answer"].split() == row["reference"].split() for row in rows])
    forum = np.array([sources[int(row["row"])] == "forum" for row in rows])
    worst = next(own for own in found["shown"] if own["name"] == "source forum")
    assert worst["score"]["value"] == pytest.approx(right[forum].mean()) and worst["rest"] == pytest.approx(
        right[~forum].mean()
    )
    assert found["metric"] == "exact_match" and worst["p_value"] < 0.05
    report = Path("runs/long/report/report.md").read_text()
    assert "## Slices" in report and "source forum" in report.partition("## Slices")[2].partition("##")[0]

    assert finetune("run", "instruct", *more, "--set", "train.epochs=1", "--name", "short").status == 0
    done = finetune("compare", "runs/long", "runs/short", "--out", "page")
    assert done.status == 0, done.err
    other = np.array(
        [row["answer"].split() == row["reference"].split() for row in rows_of(Path("runs/short"), "answers.csv")]
    )
    table = [[(right & other).sum(), (right & ~other).sum()], [(~right & other).sum(), (~right & ~other).sum()]]
    assert f"p = {mcnemar(table, exact=True).pvalue:.2g}" in done.out or "p < 0.0001" in done.out
    assert "exact match" in done.out and "Rows on which they differ" in Path("page/report.md").read_text()

    recipe = json.loads(Path("runs/long/recipe.json").read_text())
    Path("runs/long/recipe.json").write_text(json.dumps(recipe | {"report": {"texts": False}}))
    assert finetune("report", "runs/long").status == 0
    assert finetune("compare", "runs/long", "runs/short", "--out", "page").status == 0
    for path in (*Path("runs/long/report").iterdir(), *Path("page").iterdir()):
        text = path.read_text()
        assert "no texts of the data" in text and not any(f"Say {word}" in text for word in NUMBERS), path


def test_targets_are_compared_by_their_characters(finetune):
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    lines = [
        f"{n}\tthe many digits of this number are from left to right {words[n // 10]} and {words[n % 10]} and end\t{n % 2}"
        for n in range(100)
    ]
    Path("pairs.tsv").write_text("\n".join(["digits\twords\torigin", *lines]) + "\n")
    more = ["--set", "data=pairs.tsv", "--set", "seq2seq.source=digits", "--set", "seq2seq.target=words", *TINY]
    more += [
        "--set",
        "seq2seq.max_new_tokens=90",
        "--set",
        "split.test_fraction=0.5",
        "--set",
        "seq2seq.family=decoder",
    ]
    bad = finetune("run", "seq2seq", *more, "--set", "evaluate.slice_by=nothing")
    assert bad.status == 2 and "no column 'nothing'" in bad.err and "evaluate.slice_by=COL" in bad.err
    for name, epochs in (("long", 3), ("short", 1)):
        done = finetune(
            "run",
            "seq2seq",
            *more,
            "--set",
            f"train.epochs={epochs}",
            "--set",
            "evaluate.slice_by=origin",
            "--name",
            name,
        )
        assert done.status == 0, done.err
    evaluation = json.loads(Path("runs/long/eval.json").read_text())
    assert evaluation["headline"]["metric"] == "chrf" == evaluation["slices"]["metric"]
    rows = rows_of(Path("runs/long"), "targets.csv")
    scores = np.array([CHRF().sentence_score(row["output"], [row["reference"]]).score for row in rows])
    odd = np.array([int(row["source"]) % 2 == 1 for row in rows])
    part = next(own for own in evaluation["slices"]["shown"] if own["name"] == "origin 1")
    assert (part["score"]["value"], part["rest"]) == pytest.approx((scores[odd].mean(), scores[~odd].mean()))
    done = finetune("compare", "runs/long", "runs/short", "--out", "page")
    assert done.status == 0 and "points of chrF" in done.out and "permutation test" in done.out, done.err
    page = Path("page/report.md").read_text()
    assert "Permutation test" in page and "its scores" not in page
