"""The comparison of methods by the real command: its table and report, and what a stopped one does again."""

import json
from pathlib import Path

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

SETTINGS = ["run", "spam-methods", "--set", "weights=random-bytes", "--set", "compare.seeds=2",
            "--set", "train.epochs=1", "--set", "train.max_steps=3", "--set", "train.threads=1"]


def read(*parts):
    return json.loads(Path(*parts).read_text(encoding="utf-8"))


def test_every_way_on_the_same_rows_and_no_training_done_twice(finetune, monkeypatch):
    from finetune.stages import compare
    work, fitted = compare.train, []

    def stopped_after_five(job, settings, directory, identity):
        fitted.append(directory.name)
        if len(fitted) == 6:
            raise KeyboardInterrupt
        return work(job, settings, directory, identity)
    monkeypatch.setattr(compare, "train", stopped_after_five)
    assert finetune(*SETTINGS).status == 130
    assert not Path("runs/spam-methods/comparison.json").exists()
    done = finetune(*SETTINGS)
    assert done.status == 0, done.err
    assert len(fitted) == 17 and fitted[5] == fitted[6] and len(set(fitted)) == 16

    run = Path("runs/spam-methods")
    found = read(run, "comparison.json")
    assert found["reference"] == "full"  # these weights are random: nothing to keep
    entries = {entry["name"]: entry for entry in found["candidates"]}
    truth = [json.loads(line)["label"] for line in (run / "data" / "test.jsonl").read_text().splitlines()]
    for name in ("head", "lora", "padded", "full-random"):
        guessed = [[found["labels"][i] for i in read(run, "comparison", f"{name}-{seed}", "result.json")["predicted"]]
                   for seed in (123, 124)]
        assert np.isclose(entries[name]["accuracy"]["value"], np.mean([accuracy_score(truth, row) for row in guessed]))
        assert np.isclose(entries[name]["f1"]["value"],
                          np.mean([f1_score(truth, row, pos_label="spam", zero_division=0) for row in guessed]))
    moving = {name: entry["trainable"] for name, entry in entries.items() if "trainable" in entry}
    assert moving["head"] < moving["lora"] < moving["last-block"] < moving["last-two-blocks"] < moving["full"]
    assert moving["last-block"] == moving["first-token"] == moving["padded"]
    assert not list(run.glob("comparison/*/checkpoints"))

    for line in ("test rows: ", "last block, padded", "TF-IDF", "reference"):
        assert line in done.out
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert all(entry["label"] in page for entry in found["candidates"])
    (run / "report" / "report.md").unlink()
    assert finetune("report", run).status == 0 and "LoRA" in (run / "report" / "report.md").read_text(encoding="utf-8")
    assert "nothing left to do" in finetune(*SETTINGS).out


def test_an_unknown_candidate_is_refused_before_anything_is_trained(finetune):
    done = finetune(*SETTINGS, "--set", 'compare.candidates=["head","tail"]')
    assert done.status == 2 and "tail" in done.err and "last-two-blocks" in done.err
