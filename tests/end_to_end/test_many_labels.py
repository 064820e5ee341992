"""A run on rows with many labels, from table to transformers, and the same rows written in other ways."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest

WORDS = {"billing": ["invoice", "charge"], "login": ["password", "sign in"], "refund": ["money back", "return it"]}
LABELS = list(WORDS)
ASK = [
    "--set",
    "classify.labels=many",
    "--weights",
    "random-bytes",
    "--set",
    "train.epochs=2",
    "--set",
    "train.lr=0.003",
]


def rows(count: int = 90) -> list[tuple[str, list[str]]]:
    draw = random.Random(0)
    found = []
    for _number in range(count):
        own = sorted(draw.sample(LABELS, draw.choice([1, 1, 2])))
        letters = "".join(draw.choices("abcdefghij", k=6))
        found.append((" ".join(draw.choice(WORDS[label]) for label in own) + f" {letters}", own))
    return found


def write(form: str) -> list[str]:
    """The rows as a table; the arguments that name it."""
    if form == "lists":
        lines = [json.dumps({"text": text, "label": own}) + "\n" for text, own in rows()]
        Path("my.jsonl").write_text("".join(lines))
        return ["my.jsonl"]
    if form == "columns":
        lines = [f"{text},{','.join(str(int(label in own)) for label in LABELS)}\n" for text, own in rows()]
        Path("my.csv").write_text(f"text,{','.join(LABELS)}\n" + "".join(lines))
        return ["my.csv", "--label", ",".join(LABELS)]
    Path("my.csv").write_text("text,label\n" + "".join(f"{text},{';'.join(own)}\n" for text, own in rows()))
    return ["my.csv"]


@pytest.mark.parametrize("form", ["lists", "columns"])
def test_all_ways_of_writing_the_labels_prepare_the_same_rows(finetune, form):
    for name, kind in (("one", "cells"), ("other", form)):
        found = finetune("classify", *write(kind), *ASK, "--name", name, "--until", "prepare")
        assert found.status == 0 and "3 labels, 1.3" in found.out
    for part in ("train", "val", "test"):
        one, other = (Path(f"runs/{name}/data/{part}.jsonl").read_text() for name in ("one", "other"))
        assert one == other and '"label": "billing;login"' in Path("runs/one/data/train.jsonl").read_text()


def test_a_run_from_table_to_transformers(finetune):
    import torch
    from scipy.special import expit
    from sklearn.metrics import accuracy_score, f1_score
    from transformers import AutoTokenizer, GPT2ForSequenceClassification

    arguments = write("cells")
    stopped = finetune("classify", *arguments, "--name", "stopped")
    assert (
        stopped.status == 2 and "--set classify.labels=many" in stopped.err and "labels joined with ';'" in stopped.err
    )
    assert finetune("data", "check", "my.csv").status == 2
    checked = finetune("data", "check", "my.csv", "--labels", "many")
    assert checked.status == 0 and "labels in column 'label'" in checked.out
    found = finetune("classify", *arguments, *ASK, "--name", "many", "--seeds", "2")
    assert found.status == 0, found.err
    run = Path("runs/many")
    evaluation = json.loads((run / "eval.json").read_text())
    assert evaluation["labels"] == LABELS and len(evaluation["thresholds"]) == 3
    with open(run / "predictions.csv", newline="") as file:
        predictions = list(csv.DictReader(file))
    truth, said = (
        np.array([[label in row[key].split(";") for label in LABELS] for row in predictions])
        for key in ("label", "predicted")
    )
    assert evaluation["metrics"]["f1_micro"]["value"] == pytest.approx(f1_score(truth, said, average="micro"))
    assert evaluation["metrics"]["f1_macro"]["value"] == pytest.approx(f1_score(truth, said, average="macro"))
    assert evaluation["metrics"]["subset_accuracy"]["value"] == pytest.approx(accuracy_score(truth, said))
    assert "Micro F1" in (run / "report" / "report.md").read_text()
    over = evaluation["seeds"]["metrics"]["f1_micro"]["by_seed"]
    assert over[0] == evaluation["metrics"]["f1_micro"]["value"] and evaluation["seeds"]["seeds"] == [123, 124]
    base = run / "base"  # random-bytes depend on the seed
    more = ["--weights", base, "--set", "train.seed=124", "--until", "evaluate"]
    assert finetune("classify", *arguments, *ASK, *more, "--name", "alone").status == 0
    second = json.loads(Path("runs/alone/eval.json").read_text())["metrics"]["log_loss"]["value"]
    assert evaluation["seeds"]["metrics"]["log_loss"]["by_seed"][1] == pytest.approx(second, abs=1e-6)
    done = finetune("compare", "runs/many", "runs/alone")
    assert done.status == 0 and "subset_accuracy" in done.out and "many and alone" in done.out, done.err

    hf = run / "export" / "hf"
    model = GPT2ForSequenceClassification.from_pretrained(hf).eval()
    tokenizer = AutoTokenizer.from_pretrained(hf)
    assert model.config.problem_type == "multi_label_classification"
    with torch.inference_mode():
        texts = [row["text"] for row in predictions]
        logits = np.concatenate([model(torch.tensor([tokenizer(text)["input_ids"]])).logits.numpy() for text in texts])
    ours = np.array([[row[f"p_{label}"] for label in evaluation["labels"]] for row in predictions], float)
    assert np.abs(expit(logits) - ours).max() < 2e-6
    assert ((expit(logits) >= evaluation["thresholds"]) == said).all()

    one = finetune("predict", run, texts[0])
    assert one.out.split("\t")[0] == predictions[0]["predicted"]
    assert len(one.out.strip().split("\t")[1].split(";")) == said[0].sum()
    scored = finetune("evaluate", run, "my.csv")
    assert scored.status == 0 and "subset_accuracy" in scored.out and scored.out.startswith("90 rows")
    assert finetune("report", run).status == 0


def test_comparisons_need_one_label_per_row(finetune):
    write("cells")
    found = finetune("run", "spam-methods", "--set", "data=my.csv", "--set", "classify.labels=many")
    assert found.status == 2 and "needs one label per row" in found.err
    found = finetune("classify", "my.csv", "--folds", 3, "--set", "classify.labels=many")
    assert found.status == 2 and "a cross-validation needs one label per row" in found.err
