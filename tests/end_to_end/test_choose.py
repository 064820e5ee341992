"""The winner on validation by the real command: a bundle of TF-IDF that needs no torch, and of the average with the model."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from finetune.evaluation.baseline import tfidf_logistic
from finetune.export import FORMATS

SETTINGS = ["--weights", "random-bytes", "--method", "head", "--set", "evaluate.choose=best"]
SHORT = ("train.max_steps=2", "train.threads=1", "evaluate.resamples=100", "classify.audit=off")
SETTINGS += [part for setting in SHORT for part in ("--set", setting)]
NEW = ["win a free prize now", "see you at home, mum"]
PREDICT = """
import sys
from finetune.cli import main
sys.argv = ["finetune", "predict", *sys.argv[1:]]
try:
    main()
finally:
    print("torch" in sys.modules)
"""


@pytest.fixture
def table(finetune, tools):
    with open("toy.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *tools.toy_rows(160)])


def rows(run: Path, split: str) -> tuple[list[str], np.ndarray]:
    records = [json.loads(line) for line in (run / "data" / f"{split}.jsonl").read_text().splitlines()]
    return [record["text"] for record in records], np.array([record["label"] == "spam" for record in records]).astype(
        int
    )


def shown(out: str) -> list[list[str]]:
    return [line.split("\t") for line in out.splitlines()]


def test_a_bundle_of_tf_idf_is_predicted_without_torch_as_scikit_learn_does(finetune, table, request):
    done = finetune("classify", "toy.csv", *SETTINGS, "--name", "best")
    assert done.status == 0, done.err
    run = Path("runs/best")
    evaluation = json.loads((run / "eval.json").read_text())
    assert evaluation["choice"]["winner"] == "tfidf" and evaluation["model"]["headline"]["metric"] == "accuracy"
    names = {"bundle.json", "tfidf.json", "tfidf.safetensors", "README.md", "MANIFEST.json"}
    assert {path.name for path in (run / "export" / "bundle").iterdir()} == names and not (
        run / "export" / "hf"
    ).exists()
    card = ModelCard.load(run / "export" / "bundle" / "README.md").data
    assert card.eval_results[0].metric_value == pytest.approx(evaluation["headline"]["value"], abs=1e-6)
    (train, y), (val, y_val) = rows(run, "train"), rows(run, "val")
    wanted, _, _ = tfidf_logistic(train, y, val, y_val, NEW, 2)
    command = [sys.executable, "-c", PREDICT, str(run), *NEW]
    alone = subprocess.run(command, capture_output=True, text=True, env={**_environment(request)}, check=True)
    *lines, torch = shown(alone.stdout)
    assert torch == ["False"]
    assert lines == [[("ham", "spam")[p.argmax()], f"{p.max():.4f}"] for p in wanted]
    Path("new.csv").write_text("text\n" + "\n".join(f'"{text}"' for text in NEW) + "\n")
    assert finetune("predict", run, "--csv", "new.csv", "--out", "out.csv").status == 0
    with open("out.csv", newline="") as file:
        found = [float(row["p_spam"]) for row in csv.DictReader(file)]
    assert found == pytest.approx(wanted[:, 1], abs=1e-6)
    page = (run / "report" / "report.md").read_text(encoding="utf-8")
    assert "chosen on the validation rows" in page and "What the bundle contains" in page and "--part model" in page
    assert "nothing left to do" in finetune("classify", "toy.csv", *SETTINGS, "--name", "best").out

    for format in FORMATS:
        refused = finetune("export", run, "--format", format)
        assert refused.status == 2 and "this run's winner is not the model; got tfidf" in refused.err
        assert "--part model" in refused.err and not (run / "export" / format).exists()
    assert "has no export of the model" in finetune("push", run, "me/mine", "--dry-run").err
    assert finetune("export", run, "--part", "head").status == 2
    exported = finetune("export", run, "--part", "model", "--out", "alone")
    assert exported.status == 0, exported.err
    card = json.loads(Path("alone/bundle.json").read_text())
    assert card["temperature"] == evaluation["model"]["temperature"] and "winner" not in card
    assert shown(finetune("predict", run, *NEW).out) == lines  # the run's bundle is still the winner's
    assert shown(finetune("predict", "alone", *NEW).out) != lines


def _environment(request) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(request.config.rootpath)}


def test_a_bundle_of_the_average_holds_both_and_predicts_their_mean(finetune, table, monkeypatch):
    from finetune.tasks.classify import choose

    original = choose.choose_winner
    monkeypatch.setattr(
        choose, "choose_winner", lambda values, *more: original({**values, "average": values["average"] + 1}, *more)
    )
    done = finetune("classify", "toy.csv", *SETTINGS, "--name", "both")
    assert done.status == 0, done.err
    bundle = Path("runs/both/export/bundle")
    assert (bundle / "model" / "model.safetensors").exists() and (bundle / "tfidf.safetensors").exists()
    from finetune.tasks.classify.bundle import Bundle, open_bundle
    from finetune.tasks.classify.winner import read_tfidf

    model = Bundle.load(bundle / "model")
    p = np.sqrt(model.predict(NEW)[1] * read_tfidf(bundle).probabilities(NEW))
    assert open_bundle("runs/both").predict(NEW)[1] == pytest.approx(p / p.sum(axis=1, keepdims=True), abs=1e-6)
    score = finetune("evaluate", "runs/both", "toy.csv")
    assert score.status == 0 and "160 rows" in score.out
    damaged = bundle / "tfidf.json"
    damaged.write_text(damaged.read_text().replace("win", "wim", 1))
    assert "damaged or was edited" in finetune("predict", "runs/both", *NEW).err


def test_a_choice_is_for_one_label_per_row(finetune, table):
    many = finetune("classify", "toy.csv", *SETTINGS[:-8], "--set", "classify.labels=many", "--name", "many")
    assert many.status == 2 and "evaluate.choose=best needs one label per row" in many.err
