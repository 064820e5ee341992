"""A learning curve by the real command: the same test rows for every share, and what more labels are expected to bring."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

SETTINGS = ["--weights", "random-bytes", "--method", "head", "--learning-curve"]
SHORT = ("train.max_steps=2", "train.threads=1", "evaluate.resamples=100", "split.test_fraction=0.3")
SETTINGS += [part for setting in SHORT for part in ("--set", setting)]


@pytest.fixture
def table(finetune, tools):
    with open("toy.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *tools.toy_rows(200)])


def test_a_curve_has_a_point_for_each_share_and_keeps_finished_trainings(finetune, table, monkeypatch):
    from finetune.comparisons.learning_curve import trainings

    work, trained = trainings._fit, []

    def stopped_at_the_fourth(recipe, run, rows, share, seed, basis):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append((share, seed))
        return work(recipe, run, rows, share, seed, basis)

    monkeypatch.setattr(trainings, "_fit", stopped_at_the_fourth)
    assert finetune("classify", "toy.csv", *SETTINGS).status == 130
    monkeypatch.setattr(trainings, "_fit", lambda *given: trained.append(given[3:5]) or work(*given))
    done = finetune("classify", "toy.csv", *SETTINGS)
    assert done.status == 0, done.err + done.out
    wanted = [
        (0.1, 123),
        (0.1, 124),
        (0.1, 125),
        (0.25, 123),
        (0.25, 124),
        (0.25, 125),
        (0.5, 123),
        (0.5, 124),
        (1.0, 123),
    ]
    assert trained == wanted

    run = Path("runs/learning-curve-toy")
    found = json.loads((run / "comparison.json").read_text())
    test = [json.loads(line) for line in (run / "data" / "test.jsonl").read_text().splitlines()]
    rows = len((run / "data" / "train.jsonl").read_text().splitlines())
    y = [found["labels"].index(record["label"]) for record in test]
    for point in found["points"]:
        own = [seed for share, seed in wanted if share == point["share"]]
        results = [
            json.loads((run / "curve" / f"{point['share']:g}-{seed}" / "result.json").read_text()) for seed in own
        ]
        assert point["rows"] == round(point["share"] * rows) == results[0]["train_rows"]
        for key, name in (("by_seed", "predicted"), ("baseline_by_seed", "baseline_predicted")):
            assert point[key] == pytest.approx([accuracy_score(y, result[name]) for result in results])
        assert point["accuracy"]["value"] == pytest.approx(np.mean(point["by_seed"]))
        assert point["baseline"]["value"] == pytest.approx(np.mean(point["baseline_by_seed"]))
    assert found["baseline"]["law"]["trainings"] == 9 and found["baseline"]["double"]["rows"] == 2 * rows
    assert found["baseline"]["measured"] == pytest.approx(1 - found["points"][-1]["baseline"]["value"])
    page = (run / "report" / "report.md").read_text(encoding="utf-8")
    assert "Would more labels help?" in page and "Fitted without its last point" in page and "Learning curve" in page
    assert f"{rows:,} (100%)" in page and "more labels would help" in page.lower()
    assert "nothing left to do" in finetune("classify", "toy.csv", *SETTINGS).out


@pytest.mark.parametrize(
    "more, said",
    [
        (["--folds", "3"], "one run cannot both cross-validate and draw a learning curve"),
        (["--set", "classify.labels=many"], "a learning curve needs one label per row"),
        (["--processes", "2"], "a learning curve needs task classify and one process"),
    ],
)
def test_what_contradicts_a_curve_is_refused(finetune, table, more, said):
    done = finetune("classify", "toy.csv", *SETTINGS, *more)
    assert done.status == 2 and said in done.err and not Path("runs").exists()
