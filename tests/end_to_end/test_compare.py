"""Several seeds in one run, and runs beside each other."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

SHORT = ["run", "spam-classifier", "--set", "weights=random-bytes", "--set", "train.epochs=1", "--until", "report"]


def right(run: Path) -> np.ndarray:
    with open(run / "predictions.csv", newline="", encoding="utf-8") as file:
        return np.array([row["label"] == row["predicted"] for row in csv.DictReader(file)])


def test_seeds_and_comparisons_of_runs(finetune, toy_copy):
    base = ["--set", f"weights={toy_copy / 'base'}"]  # random-bytes depend on the seed
    done = finetune(*SHORT, *base, "--seeds", "2", "--set", "train.seed=7", "--name", "seeds")
    assert done.status == 0, done.err
    seeds = json.loads(Path("runs/seeds/eval.json").read_text())
    assert seeds["seeds"]["seeds"] == [7, 8] and not Path("runs/seeds/seeds").exists()
    over = seeds["seeds"]["metrics"]["log_loss"]
    assert over["by_seed"][0] == seeds["metrics"]["log_loss"]["value"] != over["by_seed"][1]
    assert over["mean"]["value"] == pytest.approx(np.mean(over["by_seed"]))
    assert "2 trainings on the same rows with the seeds 7, 8" in Path("runs/seeds/report/report.md").read_text()
    assert finetune(*SHORT, *base, "--set", "train.seed=8", "--name", "alone").status == 0  # the second seed by itself
    alone = json.loads(Path("runs/alone/eval.json").read_text())
    assert over["by_seed"][1] == pytest.approx(alone["metrics"]["log_loss"]["value"], abs=1e-6)

    done = finetune("compare", toy_copy, "runs/seeds", "runs/alone", "--out", "page")
    assert done.status == 0, done.err
    one, other = right(toy_copy), right(Path("runs/seeds"))
    table = [[(one & other).sum(), (one & ~other).sum()], [(~one & other).sum(), (~one & ~other).sum()]]
    p = mcnemar(table, exact=True).pvalue
    assert f"p = {p:.2g}" in done.out and "within noise" in done.out
    page = Path("page/report.md").read_text()
    assert "Rows on which they differ" in page and page.count("| spam-classifier |") >= 1
    assert "Corrected" in page and Path("page/index.html").exists()


def test_runs_on_other_rows_or_of_other_tasks_are_refused(finetune, toy_copy):
    assert finetune(*SHORT, "--set", "split.seed=1", "--name", "other").status == 0
    done = finetune("compare", toy_copy, "runs/other")
    assert done.status == 2 and "spam-classifier and other were tested on different rows" in done.err
    assert "24 test rows" in done.err and not list(Path("runs").glob("compare*"))
    done = finetune("compare", toy_copy, toy_copy)
    assert done.status == 2 and "a run is given twice" in done.err
    assert finetune("compare", toy_copy).status == 2
    (toy_copy / "predictions.csv").write_text("row,text,label,predicted\n1,x,ham,ham\n")
    done = finetune("compare", toy_copy, "runs/other")
    assert done.status == 2 and "have changed since they were written" in done.err
    done = finetune("run", "instruct", "--seeds", "2", "--dry-run")
    assert done.status == 2 and "evaluate.seeds has no effect in instruct" in done.err
