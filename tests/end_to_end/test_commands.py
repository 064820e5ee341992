"""The other commands on a finished run, and what the command line itself refuses."""

import re
import shutil
import signal
import tomllib
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

PIPELINES = ["classify", "spam-classifier"]


def test_evaluate_scores_a_labelled_file(toy, sms, finetune):
    from finetune.tasks.classify.bundle import Bundle

    rows = [(text.strip('"'), label) for text, label in sms.rows[:60]]
    lines = ["category\tmessage\n", *(f"{label}\t{text}\n" for text, label in rows), "ham\t \n"]
    Path("my.tsv").write_text("".join(lines))
    found = finetune("evaluate", toy.run, "my.tsv")
    assert (
        found.status == 0
        and found.out.splitlines()[0] == "60 rows; text 'message', label 'category'; positive class 'spam'"
    )
    assert found.out.splitlines()[-1] == "note: 1 row left out: empty text"
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in found.out.splitlines()[1:-1]}
    labels, p = Bundle.load(toy.run).predict([text for text, _ in rows])
    truth = [label for _, label in rows]
    expected = {
        "accuracy": 100 * accuracy_score(truth, labels),
        "f1": 100 * f1_score(truth, labels, pos_label="spam"),
        "roc_auc": roc_auc_score(np.array(truth) == "spam", p[:, 1]),
    }
    for name, value in expected.items():
        assert float(shown[name].split()[0]) == pytest.approx(value, abs=0.051), name
        assert re.search(r"\([\d.]+ to [\d.]+; n = 60\)$", shown[name])


def test_evaluate_takes_columns_by_name(toy, sms, finetune):
    Path("odd.csv").write_text("a,b\n" + "".join(f"{label},{text.strip(chr(34))}\n" for text, label in sms.rows[:20]))
    found = finetune("evaluate", toy.run, "odd.csv", "--text", "b", "--label", "a")
    assert found.status == 0 and found.out.startswith("20 rows; text 'b', label 'a'; positive class 'spam'\n")
    by_content = finetune("evaluate", toy.run, "odd.csv")
    assert by_content.status == 0 and by_content.out == found.out
    refused = finetune("evaluate", toy.run, "odd.csv", "--text", "c")
    assert refused.status == 2 and "'c'" in refused.err and "a, b" in refused.err


def test_report_is_built_again(toy, toy_copy, finetune):
    shutil.rmtree(toy_copy / "report")
    found = finetune("report", toy_copy)
    assert found.status == 0 and Path(found.out.strip()) == toy_copy / "report" / "index.html"
    assert (toy_copy / "report" / "report.md").stat().st_size > 1000
    assert "spam-classifier" in (toy_copy / "report" / "index.html").read_text(encoding="utf-8")


def test_export_goes_elsewhere_too(toy, toy_copy, finetune, tools):
    found = finetune("export", toy_copy, "--format", "hf", "--out", "mine")
    assert found.status == 0 and found.out.splitlines()[-1] == "mine"
    mine, theirs = tools.hashes(Path("mine")), tools.hashes(toy.run / "export" / "hf")
    assert set(mine) == set(theirs) and mine["model.safetensors"] == theirs["model.safetensors"]
    assert mine["bundle.json"] == theirs["bundle.json"]
    assert finetune("predict", "mine", "win cash").status == 0
    again = finetune("export", toy_copy, "--out", "mine")
    assert again.status == 2 and "mine: already exists" in again.err
    odd = finetune("export", toy_copy, "--format", "onnx9")
    assert odd.status == 2 and "'onnx9'" in odd.err and "hf" in odd.err


def test_a_copied_recipe_says_all_and_runs(finetune):
    copied = finetune("cp", "spam-classifier", "mine.toml")
    assert copied.status == 0 and "finetune run mine.toml" in copied.out
    text = Path("mine.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["pipeline"] == "spam-classifier" and text == finetune("show", "spam-classifier").out[:-1]
    assert finetune("cp", "spam-classifier", "mine.toml").status == 2
    Path("mine.toml").write_text(
        text.replace('weights = "auto"', 'weights = "random-bytes"').replace("# epochs =", "epochs = 1"),
        encoding="utf-8",
    )
    found = finetune("run", "mine.toml", "--name", "mine", "--until", "train")
    assert found.status == 0 and "epochs=1" in found.out and "epoch 1: validation" in found.out
    assert "nothing left to do" in finetune("run", "mine.toml", "--name", "mine", "--until", "train").out


def test_show_resolves_what_is_set(finetune):
    found = finetune(
        "show",
        "spam_classifier",
        "--set",
        "train.lr=1e-4",
        "--set",
        "evaluate.positive=01",
        "--set",
        'data=dé"ta\\ 😀.csv',
    )
    shown = tomllib.loads(found.out)
    assert shown["train"]["lr"] == 1e-4 and shown["evaluate"] == {
        "metric": "auto",
        "positive": "01",
        "seeds": 1,
        "choose": "model",
        "resamples": 1000,
    }
    assert shown["data"] == 'dé"ta\\ 😀.csv'
    described = [line for line in found.out.splitlines() if line.startswith("# ")]
    assert len(described) > 25 and "# lr =" not in found.out


def test_show_prints_a_run_s_recipe(toy, finetune):
    shown = tomllib.loads(finetune("show", toy.run / "recipe.json").out)
    assert shown["weights"] == "random-bytes" and shown["train"]["epochs"] == 2


def test_ls_lists_every_pipeline_with_its_first_line(finetune):
    import ast

    lines = finetune("ls").out.splitlines()
    root = Path(__file__).parents[2] / "pipelines"
    expected = {
        path.stem.replace("_", "-"): ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        for path in root.glob("*.py")
    }
    assert {line.split()[0]: line.split(maxsplit=1)[1] for line in lines} == {
        name: text.splitlines()[0] for name, text in expected.items()
    }
    assert set(PIPELINES) <= set(expected)


def test_weights_ls_lists_the_registry(finetune):
    found = finetune("weights", "ls")
    lines = {line.split()[0]: line for line in found.out.splitlines()}
    assert found.status == 0 and {"gpt2", "gpt2-medium", "distilgpt2"} <= set(lines)
    assert "124 M" in lines["gpt2"] and "not here" in lines["gpt2"] and "MIT" in lines["gpt2"]


def test_doctor_says_what_a_bug_report_needs(finetune):
    found = finetune("doctor")
    assert found.status == 0 and "torch" in found.out and "python" in found.out.lower()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["run", "spam-classifier", "--nonsense"],
        ["classify"],
        ["weights", "nonsense"],
        [],
        ["run", "spam-classifier", "--processes", "0"],
        ["run", "spam-classifier", "--processes", "two"],
        ["show"],
    ],
)
def test_a_command_line_that_is_none_exits_2(finetune, arguments):
    found = finetune(*arguments)
    assert found.status == 2 and "Traceback" not in found.err
    assert "Usage: " in found.out + found.err and not list(Path().iterdir())


def test_help_names_every_command(finetune):
    found = finetune("--help")
    assert found.status == 0
    for command in (
        "run",
        "classify",
        "predict",
        "evaluate",
        "report",
        "export",
        "weights",
        "ls",
        "show",
        "cp",
        "doctor",
    ):
        assert re.search(rf"^\W*{command}\s", found.out, re.MULTILINE), command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_outside_of_training_is_status_130(finetune, monkeypatch, number):
    monkeypatch.setattr("finetune.pipeline.describe_pipelines", lambda: signal.raise_signal(number))
    found = finetune("ls")
    assert found.status == 130 and found.err.count("\n") == 1 and "same command" in found.err


def test_a_bug_is_not_dressed_up(finetune, monkeypatch):
    """What no one foresaw must be seen whole: the traceback, and python's own exit status 1."""

    def fail():
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("finetune.pipeline.describe_pipelines", fail)
    with pytest.raises(ZeroDivisionError):
        finetune("ls")


def test_weights_that_changed_under_a_run_are_refused(finetune, tmp_path):
    """A run never mixes the blocks of two checkpoints."""
    import shutil

    from finetune.checkpoints.fallback import write_random_bytes

    write_random_bytes(tmp_path / "weights", seed=1)
    (tmp_path / "my.csv").write_text(
        "text,label\n" + "".join(f"{'win cash' if i % 2 else 'see mum'} {'x' * i},{i % 2}\n" for i in range(60))
    )
    command = ["classify", "my.csv", "--weights", "weights", "--method", "last-blocks", "--set", "train.epochs=1"]
    assert finetune(*command, "--name", "a").status == 0
    shutil.rmtree(tmp_path / "weights")
    write_random_bytes(tmp_path / "weights", seed=2)
    refused = finetune("export", "runs/a")
    assert refused.status == 2 and "have changed since this run began; got model.safetensors" in refused.err
    again = finetune(*command, "--name", "a", "--until", "prepare")
    assert "settings differ from a (the weights' model.safetensors): starting a-2" in again.out


def test_what_is_out_of_date_is_neither_exported_nor_reported(toy, toy_copy, finetune):
    finetune("run", toy_copy / "recipe.json", "--name", "spam-classifier", "--from", "train", "--until", "train")
    assert not (toy_copy / "eval.json").exists() and not (toy_copy / "export").exists()
    assert finetune("export", toy_copy).status == 2 and finetune("report", toy_copy).status == 2
