"""The whole pipeline at toy size by the real command: what it leaves, and what the same command does again."""

import csv
import json
import shlex
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

STAGES = ["download", "verify", "prepare", "train", "evaluate", "audit", "report", "export"]
CHECKPOINT = {"model.safetensors", "config.json", "vocab.json", "merges.txt", "tokenizer_config.json"}
FILES = {
    ".lock",
    "recipe.json",
    "request.json",
    "log.txt",
    "train.jsonl",
    "eval.json",
    "predictions.csv",
    "explanations.json",
    "label_audit.json",
    "label_suspects.csv",
    *(f"stages/{number:02d}-{name}.json" for number, name in enumerate(STAGES, 1)),
    "data/card.json",
    *(f"data/{name}.{kind}" for name in ("train", "val", "test") for kind in ("jsonl", "ids", "ends")),
    *(f"base/{name}" for name in CHECKPOINT),
    "checkpoints/best.json",
    *(
        f"checkpoints/step-{step:08d}/{name}"
        for step in (6, 12)
        for name in ("weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json")
    ),
    "report/index.html",
    "report/report.md",
    *(f"export/hf/{name}" for name in CHECKPOINT | {"bundle.json", "README.md", "MANIFEST.json"}),
}


def read(run: Path, *parts: str):
    return json.loads(run.joinpath(*parts).read_text(encoding="utf-8"))


def predictions(run: Path) -> list[dict]:
    with open(run / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_a_run_leaves_exactly_these_files(toy, tools):
    assert set(tools.hashes(toy.run)) == FILES
    assert [path.name for path in toy.directory.iterdir()] == ["runs"]  # nothing beside it


def test_the_resolved_settings_are_printed_and_logged(toy):
    lines = toy.out.splitlines()
    assert [line for line in lines if line[:1] == "["] == [f"[{i}] {name}" for i, name in enumerate(STAGES, 1)]
    assert any("weights=random-bytes" in line and "data=sms-spam" in line for line in lines)
    assert "report: runs/spam-classifier/report/index.html" in lines
    notes = toy.err.splitlines()
    assert all(note.startswith("note: ") for note in notes)
    logged = (toy.run / "log.txt").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == [line for line in logged if line not in notes]  # the first opens the run
    assert sorted(logged) == sorted(lines[1:] + notes)


def test_no_row_of_an_unquoted_table_is_lost(toy, sms):
    records = [
        json.loads(line)
        for split in ("train", "val", "test")
        for line in (toy.run / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert sorted(record["row"] for record in records) == list(range(len(sms.rows)))
    assert all((record["text"], record["label"]) == sms.rows[record["row"]] for record in records)
    assert sum(record["text"].startswith('"') for record in records) > 10  # the quotes are in the texts


def test_the_data_card_counts_the_file(toy, sms):
    import hashlib

    card = read(toy.run, "data", "card.json")
    assert card["rows"] == len(sms.rows) and card["labels"] == {"ham": 60, "spam": 60} and card["dropped"] == {}
    assert card["sha256"] == hashlib.sha256(sms.file.read_bytes()).hexdigest()
    assert card["name"] == "sms-spam" and card["protocol"] == "grouped"
    for name, part in card["splits"].items():
        lines = (toy.run / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert part["rows"] == len(lines)
        labels = [json.loads(line)["label"] for line in lines]
        assert part["labels"] == {label: labels.count(label) for label in part["labels"]}
    lengths = sorted(len(text.encode()) for text, _ in sms.rows)  # a token is a byte here
    assert card["tokens"]["max"] == lengths[-1] and card["tokens"]["total"] == sum(lengths)
    assert card["tokens"]["median"] == int(np.median(lengths)) and card["tokens"]["cut_rows"] == 0


def test_the_bundles_readme_is_a_model_card_with_the_figures_of_eval_json(toy):
    from huggingface_hub import ModelCard

    card = ModelCard.load(toy.run / "export" / "hf" / "README.md").data
    found = read(toy.run, "eval.json")
    measured = {result.metric_type: result.metric_value for result in card.eval_results}
    defined = {name: own["value"] for name, own in found["metrics"].items() if own["value"] is not None}
    assert measured == pytest.approx(defined, abs=1e-6)
    assert next(iter(measured)) == found["headline"]["metric"], "the headline comes first"
    assert card.model_name == "spam-classifier" and card.pipeline_tag == "text-classification"
    assert {(own.dataset_name, own.dataset_split, own.task_type) for own in card.eval_results} == {
        ("sms-spam", "test", "text-classification")
    }


def test_eval_json_has_the_keys_and_kinds_of_the_contract(toy):
    found = read(toy.run, "eval.json")
    kinds = {
        "schema_version": int,
        "task": str,
        "method": str,
        "weights": dict,
        "headline": dict,
        "metrics": dict,
        "baselines": list,
        "labels": list,
        "confusion_matrix": list,
        "clean": dict,
        "threshold": float,
        "temperature": float,
        "seconds": float,
    }
    assert {key: type(found[key]) for key in kinds} == kinds
    assert found["schema_version"] == 1 and found["task"] == "classify" and found["method"] == "full"
    assert found["weights"].items() >= {"name": "random-bytes", "fallback": True}.items()
    assert set(found["headline"]) >= {"metric", "value", "low", "high", "n", "split"}
    assert found["headline"]["metric"] == "f1" and found["headline"]["split"] == "test"
    assert set(found["metrics"]) >= {"accuracy", "f1_macro", "f1", "roc_auc", "average_precision", "log_loss"}
    for entry in found["metrics"].values():
        assert entry["low"] <= entry["value"] <= entry["high"] and entry["n"] == 24
    assert all(set(entry) >= {"name", "metrics", "p_value", "test"} for entry in found["baselines"])
    assert len(found["baselines"]) == 2 and set(found["clean"]) == {"n", "metrics"}


def test_predictions_recompute_every_metric(toy):
    found, rows = read(toy.run, "eval.json"), predictions(toy.run)
    assert list(rows[0]) == ["row", "text", "label", "predicted", "probability", "p_ham", "p_spam"]
    test = [json.loads(line) for line in (toy.run / "data" / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(int(row["row"]), row["text"], row["label"]) for row in rows] == [tuple(r.values()) for r in test]

    p = np.array([[float(row["p_ham"]), float(row["p_spam"])] for row in rows])
    truth = np.array([found["labels"].index(row["label"]) for row in rows])
    predicted = np.array([found["labels"].index(row["predicted"]) for row in rows])
    assert np.allclose(p.sum(1), 1, atol=2e-6) and (predicted == (p[:, 1] >= found["threshold"])).all()
    assert [float(row["probability"]) for row in rows] == p[np.arange(len(p)), predicted].tolist()
    assert 0 < (predicted == truth).mean() < 1  # else most metrics would agree whatever they compute
    expected = {
        "accuracy": accuracy_score(truth, predicted),
        "f1": f1_score(truth, predicted),
        "f1_macro": f1_score(truth, predicted, average="macro"),
        "precision": precision_score(truth, predicted),
        "recall": recall_score(truth, predicted),
        "roc_auc": roc_auc_score(truth, p[:, 1]),
        "average_precision": average_precision_score(truth, p[:, 1]),
    }
    for name, value in expected.items():
        assert found["metrics"][name]["value"] == pytest.approx(value, abs=1e-6), name
    rounding = 1e-6 / p[np.arange(len(p)), truth].min()  # of six decimals
    assert found["metrics"]["log_loss"]["value"] == pytest.approx(log_loss(truth, p), abs=rounding)
    assert found["metrics"]["brier"]["value"] == pytest.approx(brier_score_loss(truth, p[:, 1]), abs=4e-6)
    assert found["confusion_matrix"] == confusion_matrix(truth, predicted).tolist()


def test_stage_records_contain_the_hashes_of_the_outputs(toy, tools):
    actual = tools.hashes(toy.run)
    for number, name in enumerate(STAGES, 1):
        record = read(toy.run, "stages", f"{number:02d}-{name}.json")
        assert {path: digest for path, (_, digest) in record["outputs"].items()}.items() <= actual.items()
        assert {"inputs", "seconds", "peak_memory_bytes", "versions", "git_commit"} <= set(record)
        assert record["versions"]["torch"] and record["seconds"] >= 0 and record["peak_memory_bytes"] > 1e7


def test_the_log_of_training_has_a_line_for_each_step(toy):
    lines = [json.loads(line) for line in (toy.run / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "validation" in line] == [6, 12]


def test_the_same_command_again_changes_nothing_but_the_log(toy, toy_copy, tools, finetune):
    before = tools.hashes(toy_copy)
    again = finetune(*toy.command)
    assert again.status == 0 and "nothing left to do" in again.out.splitlines()
    assert "report: runs/spam-classifier/report/index.html" in again.out.splitlines()
    after = tools.hashes(toy_copy)
    assert {name for name in after if after[name] != before.get(name)} == {"log.txt"} and set(before) == set(after)


def test_other_settings_get_a_run_of_their_own(toy, toy_copy, finetune):
    other = finetune(*toy.command, "--set", "train.lr=0.002", "--until", "prepare")
    assert other.status == 0
    lines = other.out.splitlines()
    assert lines[0] == "settings differ from spam-classifier (train.lr): starting spam-classifier-2"
    assert lines[1] == "run runs/spam-classifier-2: new"
    third = finetune(*toy.command, "--set", "train.lr=0.002", "--set", "max_length=9", "--until", "prepare")
    assert third.out.splitlines()[0].endswith("(max_length): starting spam-classifier-3")
    again = finetune(*toy.command, "--set", "train.lr=0.002", "--until", "prepare")
    assert again.out.splitlines()[0] == "run runs/spam-classifier-2: resuming"


def test_a_recipe_resumes_under_its_name_and_reproduces_under_another(toy, toy_copy, tools, finetune):
    again = finetune("run", toy_copy / "recipe.json", "--name", "spam-classifier")
    assert again.status == 0 and "nothing left to do" in again.out
    anew = finetune("run", toy_copy / "recipe.json", "--name", "anew", "--until", "evaluate")
    assert anew.status == 0, anew.err
    assert (Path("runs/anew/predictions.csv")).read_bytes() == (toy.run / "predictions.csv").read_bytes()
    assert (
        tools.hashes(Path("runs/anew/checkpoints/step-00000012"))["weights.safetensors"]
        == tools.hashes(toy.run / "checkpoints" / "step-00000012")["weights.safetensors"]
    )


@pytest.mark.parametrize(
    "lost, stage",
    [("report/index.html", "[7] report"), ("export/hf/merges.txt", "[8] export"), ("report", "[7] report")],
)
def test_a_lost_output_brings_back_its_stage_alone(toy, toy_copy, tools, finetune, lost, stage):
    import shutil

    before = tools.hashes(toy_copy)
    shutil.rmtree(toy_copy / lost) if (toy_copy / lost).is_dir() else (toy_copy / lost).unlink()
    again = finetune(*toy.command)
    assert again.status == 0 and set(tools.hashes(toy_copy)) == set(before)
    assert [line for line in again.out.splitlines() if line[:1] == "["] == [stage]


def test_report_and_export_by_hand_leave_nothing_to_do(toy, toy_copy, finetune, tools, monkeypatch):
    monkeypatch.setattr("finetune.export.hf.SAMPLE", 5)  # the README says so
    for command in ("report", "export"):
        before = tools.hashes(toy_copy / command)
        assert finetune(command, toy_copy).status == 0 and tools.hashes(toy_copy / command) != before
        checked = finetune("doctor", toy_copy)
        assert checked.status == 0, checked.out
        assert "nothing left to do" in finetune(*toy.command).out


def test_from_runs_a_stage_and_those_after_it_again(toy, toy_copy, finetune):
    again = finetune(*toy.command, "--from", "evaluate")
    assert [line for line in again.out.splitlines() if line[:1] == "["] == [
        "[5] evaluate",
        "[6] audit",
        "[7] report",
        "[8] export",
    ]
    assert (toy_copy / "predictions.csv").read_bytes() == (toy.run / "predictions.csv").read_bytes()


def test_until_stops_after_a_stage(toy, finetune):
    found = finetune(*toy.command, "--until", "prepare")
    assert found.status == 0 and [line for line in found.out.splitlines() if line[:1] == "["][-1] == "[3] prepare"
    assert sorted(path.name for path in Path("runs/spam-classifier/stages").iterdir()) == [
        "01-download.json",
        "02-verify.json",
        "03-prepare.json",
    ]
    rest = finetune(*toy.command, "--until", "train")
    assert [line for line in rest.out.splitlines() if line[:1] == "["] == ["[4] train"]


def test_a_dry_run_writes_nothing(toy, finetune):
    found = finetune(*toy.command, "--dry-run")
    assert found.status == 0 and "stages: " + ", ".join(STAGES) in found.out.splitlines()
    assert "epochs=2" in found.out and not list(Path().iterdir())


def test_changed_data_is_another_run(finetune, tools):
    def write(rows):
        lines = [f"{text.strip(chr(34))},{label}\n" for text, label in rows]
        Path("my.csv").write_text("text,label\n" + "".join(lines))

    write(tools.toy_rows())
    command = ["classify", "my.csv", "--weights", "random-bytes", "--until", "prepare"]
    assert finetune(*command).out.splitlines()[0] == "run runs/classify-my: new"
    assert finetune(*command).out.splitlines()[0] == "run runs/classify-my: resuming"
    write(tools.toy_rows(121))
    assert finetune(*command).out.splitlines()[0] == (
        "settings differ from classify-my (the data's content): starting classify-my-2"
    )


def test_random_weights_are_reported_as_random(finetune):
    """Offline and without anything at hand, `auto` must say in one plain line that this is not GPT-2."""
    found = finetune("run", "spam-classifier", "--until", "download")
    recipe = read(Path("runs/spam-classifier"), "recipe.json")
    assert found.status == 0 and recipe["weights"] != "auto"
    assert read(Path("runs/spam-classifier"), "request.json")["weights"] == "auto"
    assert "GPT-2 is not on this machine and cannot be downloaded" in found.out.splitlines()[1]


SLOW = [
    "--set",
    "weights=random-bytes",
    "--set",
    "train.batch_size=2",
    "--set",
    "train.epochs=3",
    "--set",
    "train.evaluations_per_epoch=4",
]


@pytest.fixture(scope="module")
def unbroken(toy, sms, tmp_path_factory):
    """The predictions of a run that nobody stopped."""
    from finetune.execution import execute, open_run
    from finetune.pipeline import load_pipeline, make_recipe

    with pytest.MonkeyPatch.context() as patch:
        for name, value in sms.environment.items():
            patch.setenv(name, value)
        request = make_recipe("spam-classifier", SLOW[1::2])
        run, recipe = open_run(request, tmp_path_factory.mktemp("unbroken"), "run")
        execute(run, recipe, load_pipeline("spam-classifier").stages, until="evaluate")
    return run.path("predictions.csv").read_bytes()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signals on Windows")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_run_stopped_in_training_ends_like_one_that_was_not(how, unbroken, finetune, tools, tmp_path):
    command = ["run", "spam-classifier", *SLOW, "--until", "evaluate"]
    process = tools.start(command, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run, deadline = tmp_path / "runs" / "spam-classifier", time.monotonic() + 120
    while len(list(run.glob("checkpoints/step-*"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(getattr(signal, how))
    out, err = process.communicate(timeout=60)
    assert not (run / "stages" / "04-train.json").exists(), "the signal came too late to test anything"
    if how == "SIGKILL":
        assert process.returncode == -signal.SIGKILL
        going_on = command
    else:
        assert process.returncode == 130 and "Traceback" not in err
        *notes, last = err.splitlines()
        assert all(note.startswith("note: ") for note in notes)
        assert last.startswith("stopped at step ") and "the state is saved" in last
        going_on = [*shlex.split(err.partition("Resume with: ")[2].partition("finetune ")[2]), "--until", "evaluate"]
    rest = finetune(*going_on)
    assert rest.status == 0 and "resuming from step-" in rest.out
    assert (run / "predictions.csv").read_bytes() == unbroken
