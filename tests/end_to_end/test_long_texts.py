"""Runs on texts longer than the input: windows from table to transformers, what cutting costs, folds and the dry run."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest

SETTINGS = ["--weights", "random-bytes"]
for setting in ("train.epochs=2", "train.lr=0.003", "max_length=24", "train.threads=1"):
    SETTINGS += ["--set", setting]
FAST = [*SETTINGS, "--set", "evaluate.resamples=100"]


@pytest.fixture
def table(finetune):
    """120 texts, two of three longer than the input, with the word that decides at the end."""
    draw = random.Random(0)
    words = ["rain", "letter", "garden", "window", "train"]
    rows = [
        (" ".join([*draw.choices(words, k=draw.choice([1, 6, 12])), ("home", "prize")[i % 2]]), ("ham", "spam")[i % 2])
        for i in range(120)
    ]
    with open("my.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("text", "label"), *((f"{text} {i}", label) for i, (text, label) in enumerate(rows))]
        )


def test_windows_from_table_to_transformers(finetune, table):
    import torch
    from transformers import AutoTokenizer, GPT2ForSequenceClassification

    found = finetune("classify", "my.csv", *FAST, "--long-texts", "windows", "--name", "one")
    assert found.status == 0 and "windows that share 6 tokens with the next" in found.out, found.err
    run = Path("runs/one")
    card = json.loads((run / "data" / "card.json").read_text())
    assert card["tokens"]["long_texts"] == "windows" and card["tokens"]["ways"]["windows"]["unread"] == 0
    train = [json.loads(line)["text"] for line in (run / "data" / "train.jsonl").open()]
    assert np.fromfile(run / "data" / "train.pieces", dtype=np.int64).sum() > len(train)
    with open(run / "predictions.csv", newline="") as file:
        predictions = list(csv.DictReader(file))
    texts = [row["text"] for row in predictions]
    bundle = json.loads((run / "export" / "hf" / "bundle.json").read_text())
    assert bundle["long_texts"] == "windows"
    model = GPT2ForSequenceClassification.from_pretrained(run / "export" / "hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "export" / "hf")
    ours = np.array([[row["p_ham"], row["p_spam"]] for row in predictions], float)
    for text, p in zip(texts[:12], ours, strict=False):
        windows = tokenizer(text, truncation=True, max_length=24, stride=6, return_overflowing_tokens=True)["input_ids"]
        with torch.inference_mode():
            logits = [model(torch.tensor([ids])).logits[0] for ids in windows]
        read = torch.stack([torch.log_softmax(own / bundle["temperature"], 0) for own in logits]).mean(0)
        np.testing.assert_allclose(torch.softmax(read, 0).numpy(), p, atol=2e-6)

    assert finetune("predict", run, "--csv", "my.csv", "--out", "out.csv").status == 0
    with open("out.csv", newline="") as file:
        again = {row["text"]: row for row in csv.DictReader(file)}
    assert [again[row["text"]]["p_spam"] for row in predictions] == [row["p_spam"] for row in predictions]
    scored = finetune("evaluate", run, "my.csv")
    right = np.mean([row["predicted"] == row["label"] for row in again.values()])
    assert scored.status == 0 and f"accuracy           {100 * right:.1f} %" in scored.out
    report = (run / "report" / "report.md").read_text()
    assert "They are read whole, in windows that share 6 tokens with the next." in report
    assert "Tokens beyond the maximum length | none" in report.replace("  ", " ")


def test_the_report_says_what_cutting_costs_and_a_dry_run_what_windows_would(finetune, table):
    found = finetune("classify", "my.csv", *FAST, "--name", "one")
    assert found.status == 0 and "truncated to 24" in found.out and "--long-texts windows" in found.err, found.err
    measured = json.loads(Path("runs/one/eval.json").read_text())["long_texts"]
    assert measured["way"] == "cut" and measured["as_read"]["n"] == measured["difference"]["n"] > 0
    assert "when a text's windows decide together: a difference of" in Path("runs/one/report/report.md").read_text()
    planned = finetune("classify", "my.csv", *FAST, "--long-texts", "head-tail", "--dry-run")
    lines = planned.out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("long texts: "))
    assert planned.status == 0 and [line.split()[0] for line in lines[at + 1 : at + 4]] == [
        "cut",
        "head-tail",
        "windows",
    ]
    assert lines[at + 2].endswith("time x 1.00 (chosen)") and "all tokens read" in lines[at + 3]


def test_folds_average_windows_and_architectures_refuse_them(finetune, table):
    found = finetune("classify", "my.csv", *SETTINGS, "--long-texts", "windows", "--folds", 2, "--method", "head")
    assert found.status == 0, found.err
    with open("runs/folds-my/predictions.csv", newline="") as file:
        assert sorted(int(row["row"]) for row in csv.DictReader(file)) == list(range(120))
    refused = finetune("compare-architectures", "--data", "my.csv", "--set", "classify.long_texts=windows")
    assert refused.status == 2 and "reads each text once; got classify.long_texts=windows" in refused.err
    wrong = finetune("classify", "my.csv", "--long-texts", "window")
    assert wrong.status == 2 and "windows" in wrong.err
