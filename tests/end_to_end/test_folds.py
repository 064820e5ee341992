"""Cross-validation by the real command: every row predicted once, and a stopped one trains no fold twice."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix

SETTINGS = ["--weights", "random-bytes", "--folds", "3", "--method", "head"]
SETTINGS += [part for setting in ("train.max_steps=2", "train.threads=1") for part in ("--set", setting)]


@pytest.fixture
def table(finetune, tools):
    rows = tools.toy_rows(90)
    with open("toy.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("text", "label", "who"), *((text, label, f"p{i // 6}") for i, (text, label) in enumerate(rows))]
        )
    return rows


def test_every_row_is_predicted_once_and_finished_folds_are_kept(finetune, table, monkeypatch):
    from finetune.comparisons.folds import trainings

    work, trained = trainings._fit, []

    def stopped_at_the_third(recipe, run, rows, folds, fold, basis):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(fold)
        return work(recipe, run, rows, folds, fold, basis)

    monkeypatch.setattr(trainings, "_fit", stopped_at_the_third)
    assert finetune("classify", "toy.csv", *SETTINGS, "--group", "who").status == 130
    monkeypatch.setattr(trainings, "_fit", lambda *given: trained.append(given[4]) or work(*given))
    done = finetune("classify", "toy.csv", *SETTINGS, "--group", "who")
    assert done.status == 0 and trained == [0, 1, 2], done.err + done.out
    run = Path("runs/folds-toy")
    with open(run / "predictions.csv", newline="", encoding="utf-8") as file:
        predictions = list(csv.DictReader(file))
    assert [int(row["row"]) for row in predictions] == list(range(90))
    assert [row["label"] for row in predictions] == [label for _, label in table]

    comparison = json.loads((run / "comparison.json").read_text())
    results = [json.loads((run / "folds" / str(i) / "result.json").read_text()) for i in (1, 2, 3)]
    assert sorted(row for found in results for row in found["rows"]) == list(range(90))
    people = [{row // 6 for row in found["rows"]} for found in results]
    assert not people[0] & people[1] and not people[1] & people[2] and not people[0] & people[2]
    by_fold = [
        accuracy_score(
            [table[row][1] for row in found["rows"]], [comparison["labels"][guess] for guess in found["predicted"]]
        )
        for found in results
    ]
    accuracy = comparison["metrics"]["accuracy"]
    assert accuracy["by_fold"] == pytest.approx(by_fold) and accuracy["mean"]["value"] == pytest.approx(
        np.mean(by_fold)
    )
    expected = confusion_matrix([row["label"] for row in predictions], [row["predicted"] for row in predictions])
    assert comparison["confusion_matrix"] == expected.tolist()
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "Cross-validation" in page and "mean of 3 folds" in page and "every one of the 90 rows" in page


@pytest.mark.parametrize(
    "more, said",
    [
        (["--set", "split.protocol=ordered"], "split.protocol cannot be combined with folds"),
        (["--split", "who"], "columns.split cannot be combined with folds"),
        (["--set", "train.patience=2", "--set", "folds.count=1"], "greater than or equal to 2"),
    ],
)
def test_what_contradicts_folds_is_refused(finetune, table, more, said):
    done = finetune("classify", "toy.csv", *SETTINGS, *more)
    assert done.status == 2 and said in done.err and not Path("runs").exists()
