"""Wrong labels by the real command: listed, corrected in a new run, and compared on test rows that stay as they are."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.records import TrainResult
from finetune.run import Run
from finetune.tasks.classify import audit
from finetune.tasks.classify.labelled import run_examples


def suspects(run: Path) -> list[dict]:
    with open(run / "label_suspects.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def records(run: Path, split: str) -> dict[int, dict]:
    lines = (run / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["row"]: record for record in map(json.loads, lines)}


def test_a_run_lists_its_wrong_labels_in_file_report_and_on_the_screen(toy_copy, finetune, tools):
    audit, rows = json.loads((toy_copy / "label_audit.json").read_text()), suspects(toy_copy)
    assert audit["rows"] == 120 and sum(audit["suspects"].values()) == len(rows) > 5
    assert audit["features"] == ["TF-IDF", "hidden states of the starting weights"]
    assert audit["planted"]["rows"] == 10 and audit["planted"]["found"] >= 8
    every = {split: records(toy_copy, split) for split in ("train", "val", "test")}
    for row in rows:
        record = every[row["split"]][int(row["row"])]
        assert (row["text"], row["label"]) == (record["text"], record["label"])
        assert row["suggested"] != row["label"] and row["drop"] == ""
    wrong = [row for row in rows if (row["label"] == "ham") != (row["text"].strip('"').split()[0] in tools.ham)]
    assert len(wrong) / len(rows) > 0.8  # the toy's rows whose words are of the other label
    shown = finetune("labels", toy_copy)
    assert shown.status == 0 and f"{len(rows)} of 120 rows have a label that may be wrong" in shown.out
    assert "changed on purpose" in shown.out and rows[0]["text"][:20] in shown.out
    page = (toy_copy / "report" / "report.md").read_text(encoding="utf-8")
    assert "Labels that may be wrong" in page and "FT050" in page and "changed on purpose" in page


def test_fixes_start_a_run_and_leave_the_test_rows_alone(toy_copy, finetune):
    rows = suspects(toy_copy)
    train = [row for row in rows if row["split"] != "test"]
    test = [row for row in rows if row["split"] == "test"] or [
        {"row": str(row), "label": record["label"], "suggested": {"ham": "spam", "spam": "ham"}[record["label"]]}
        for row, record in records(toy_copy, "test").items()
    ][:1]
    with open("fixes.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "label", "drop"])
        writer.writerow([train[0]["row"], train[0]["label"], "x"])
        writer.writerows([row["row"], row["suggested"], ""] for row in [*train[1:], test[0]])
    done = finetune("labels", toy_copy, "--apply", "fixes.csv")
    assert done.status == 0, done.err
    new = Path("runs/spam-classifier-fixed")
    assert f"fixes.csv: {len(train) - 1} rows relabelled, 1 row dropped; not applied to 1 test row " in done.out
    assert (new / "data" / "test.jsonl").read_bytes() == (toy_copy / "data" / "test.jsonl").read_bytes()
    before, after = ({**records(run, "train"), **records(run, "val")} for run in (toy_copy, new))
    assert int(train[0]["row"]) not in after and set(after) == set(before) - {int(train[0]["row"])}
    changed = {row for row in after if after[row]["label"] != before[row]["label"]}
    assert changed == {int(row["row"]) for row in train[1:]}
    assert all(after[int(row["row"])]["label"] == row["suggested"] for row in train[1:])
    lines = done.out.splitlines()
    at = lines.index("on the same 24 test rows, with their original labels:")
    old, own = (json.loads((run / "eval.json").read_text())["headline"]["value"] for run in (toy_copy, new))
    assert "before:" in lines[at + 1] and f"{100 * old:.1f} %" in lines[at + 1]
    assert "after:" in lines[at + 2] and f"{100 * own:.1f} %" in lines[at + 2]
    assert f"difference {100 * (own - old):+.1f} points" in lines[at + 3] and "McNemar" in lines[at + 3]
    again = finetune("labels", toy_copy, "--apply", "fixes.csv")
    assert "nothing left to do" in again.out and again.out.splitlines()[-1] == lines[-1]


@pytest.mark.parametrize(("most", "features"), [(0.0, ["TF-IDF"]), (1e9, ["TF-IDF", audit.STATES])])
def test_hidden_states_are_used_where_they_cost_little_beside_the_training(
    toy_copy, finetune, monkeypatch, most, features
):
    monkeypatch.setattr(audit, "MOST_OF_TRAINING", most)
    done = finetune("run", toy_copy / "recipe.json", "--set", "classify.audit=auto", "--name", "auto")
    assert done.status == 0 and f"features: {', '.join(features)}" in done.out
    assert json.loads(Path("runs/auto/label_audit.json").read_text())["features"] == features


def test_the_work_is_counted_in_tokens(toy_copy, monkeypatch):
    """The toy run trains its last block on 84 of 120 rows."""
    run = Run.at(toy_copy)
    trained, parts = run.result("train", TrainResult), run_examples(run)
    tokens = {name: sum(map(len, part.ids)) for name, part in parts.items()}
    monkeypatch.setattr(audit, "run_examples", lambda _: parts)
    for method in ("full", "lora", "last-blocks", "features"):
        every = 3 * trained.tokens
        if method not in ("full", "lora"):
            every = every * trained.trainable.share + tokens["train"] + tokens["val"]
        own = replace(trained, method=method)
        monkeypatch.setattr(Run, "result", lambda *_, own=own: own)
        for most in (0.99, 1.01):
            monkeypatch.setattr(audit, "MOST_OF_TRAINING", most * sum(tokens.values()) / every)
            assert audit.reads_again(run) == (most > 1)


def test_a_search_that_was_switched_off_is_done_on_request(toy_copy, finetune):
    settings = ["run", toy_copy / "recipe.json", "--set", "classify.audit=off", "--name", "later"]
    run = Path("runs/later")
    assert finetune(*settings).status == 0 and not (run / "label_audit.json").exists()
    assert "changed on purpose" not in (run / "report" / "report.md").read_text(encoding="utf-8")
    listed = finetune("labels", run)
    assert listed.status == 0 and listed.out.startswith("searching for wrong labels: about ")
    assert (run / "label_suspects.csv").read_bytes() == (toy_copy / "label_suspects.csv").read_bytes()
    assert "changed on purpose" in (run / "report" / "report.md").read_text(encoding="utf-8")
    assert "nothing left to do" in finetune(*settings).out and suspects(run)


@pytest.mark.parametrize("off", ["classify.audit=off", 'ignore=["FT050"]'])
def test_the_search_can_be_switched_off(toy_copy, finetune, off):
    done = finetune("run", toy_copy / "recipe.json", "--set", "classify.audit=auto", "--set", off, "--name", "off")
    assert done.status == 0 and "left out: switched off by" in done.out
    assert not Path("runs/off/label_suspects.csv").exists()


def test_fixes_that_cannot_be_meant_are_refused(toy_copy, finetune):
    inside = toy_copy / "label_suspects.csv"
    assert "this file belongs to the run" in finetune("labels", toy_copy, "--apply", inside).err
    shutil.copy(inside, "same.csv")
    same = finetune("labels", toy_copy, "--apply", "same.csv")
    assert same.status == 2 and "changes no training or validation row" in same.err
    assert finetune("labels", toy_copy, "--name", "x").status == 2
    for settings in (["classify.audit=on"], ["classify.fixes=['same.csv']"]):
        many = finetune("classify", "same.csv", "--set", "classify.labels=many", "--set", *settings)
        assert many.status == 2 and "need one label per row; got classify.labels=many" in many.err
    folds = finetune("classify", "same.csv", "--folds", "3", "--set", "classify.fixes=['same.csv']")
    assert folds.status == 2 and "classify.fixes cannot be combined with folds" in folds.err
