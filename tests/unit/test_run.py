"""A run's directory: its name, its lock, and the records that say what is done."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from finetune.errors import RunError
from finetune.evaluation.results import Metric
from finetune.records import Record
from finetune.run import Run, content


@pytest.mark.parametrize("name", ["a", "spam-classifier-2", "v1.0_x", "0", "x" * 64, "console", "com10"])
def test_names_that_can_be_used(tmp_path, name):
    assert Run.named(tmp_path, name).directory == tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/tmp/x",
        ".hidden",
        "-x",
        "x.",
        "x" * 65,
        "a b",
        "a\0b",
        "a\n",
        "é",
        "😀",
        "CON",
        "con",
        "Nul.txt",
        "COM1",
        "lpt9.x",
        "~",
    ],
)
def test_names_that_cannot(tmp_path, name):
    with pytest.raises(RunError, match="invalid run name"):
        Run.named(tmp_path, name)


def test_a_directory_that_is_not_a_runs_is_refused(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    for name in ("link", "gone", "file"):
        with pytest.raises(RunError, match="not a run directory"):
            Run.named(tmp_path, name)
    for name in ("there", "file", "none"):
        with pytest.raises(RunError, match="not a run"):
            Run.at(tmp_path / name)
    (tmp_path / "there" / "recipe.json").write_text("{}")
    assert Run.at(tmp_path / "there").name == "there"


def test_a_run_belongs_to_one_process_at_a_time(tmp_path):
    run = Run(tmp_path / "run")
    program = "import sys; from finetune.run import Run\nwith Run(sys.argv[1]).locked(): print('mine')"
    command = [sys.executable, "-c", program, str(run.directory)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with run.locked():
        assert run.path(".lock").read_text() == str(os.getpid())
        other = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert other.returncode == 1 and f"another process is using this run; got process {os.getpid()}" in other.stderr
        with pytest.raises(RunError, match="another process"), run.locked():
            raise AssertionError("locked twice")
    assert run.path(".lock").read_text() == ""
    free = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert free.stdout == "mine\n"


def test_the_lock_of_a_process_that_died_is_taken_over(tmp_path):
    run = Run(tmp_path / "run")
    program = (
        "import os, sys; from finetune.run import Run\nlock = Run(sys.argv[1]).locked(); lock.__enter__()\nos._exit(9)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program, str(run.directory)], env=environment)
    assert run.path(".lock").read_text().isdigit()
    with run.locked():
        assert run.path(".lock").read_text() == str(os.getpid())


def test_an_error_frees_the_lock(tmp_path):
    run = Run(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), run.locked():
        raise ZeroDivisionError
    with run.locked():
        assert run.path(".lock").exists()


@dataclass(frozen=True)
class Rows(Record):
    """What a stage of the tests returns."""

    rows: int


@pytest.fixture
def finished(tmp_path):
    """A run with one finished stage that left data/a.txt."""
    run = Run(tmp_path / "run")
    run.path("data").mkdir(parents=True)
    run.path("data", "a.txt").write_text("abc")
    run.finish(3, "prepare", "inputs", [run.path("data", "a.txt")], Rows(2), 1.23456)
    return run


def test_a_record_says_what_was_done(finished):
    record = json.loads(finished.path("stages", "03-prepare.json").read_text())
    assert record["outputs"] == {
        "data/a.txt": [3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]
    }  # FIPS 180-2, B.1
    assert record["seconds"] == 1.235 and record["stage"] == "prepare" and record["inputs"] == "inputs"
    assert finished.result("prepare", Rows) == Rows(2)
    with pytest.raises(RunError, match="stage 'train' has not finished"):
        finished.result("train", Rows)
    with pytest.raises(RunError, match="the record of prepare: not in this version's format"):
        finished.result("prepare", Metric)


@pytest.mark.parametrize("text", ["null", "[]", "{}", "3", '{"stage": "prepare"}'])
def test_a_record_of_another_shape_is_an_error_that_names_it(finished, text):
    finished.path("stages", "03-prepare.json").write_text(text)
    with pytest.raises(RunError, match="03-prepare.json: not in this version's format"):
        finished.result("prepare", Rows)


def test_a_stage_is_current_with_its_inputs_and_outputs(finished):
    output = finished.path("data", "a.txt")
    assert finished.is_current(3, "prepare", "inputs") and not finished.is_current(3, "prepare", "others")
    assert not finished.is_current(4, "train", "inputs")
    output.write_text("abd")  # as long as before
    assert not finished.is_current(3, "prepare", "inputs")
    assert finished.is_current(3, "prepare", "inputs", contents=False)
    output.unlink()
    assert not finished.is_current(3, "prepare", "inputs", contents=False)
    output.mkdir()
    assert not finished.is_current(3, "prepare", "inputs", contents=False)


def test_forgetting_a_stage_drops_what_it_left_and_nothing_else(finished):
    for name in ("checkpoints/step-00000001/weights", "train.jsonl", "data/b.txt"):
        finished.path(name).parent.mkdir(parents=True, exist_ok=True)
        finished.path(name).write_text("x")
    finished.forget([(4, "train", ["train.jsonl", "checkpoints/best.json"]), (5, "evaluate", ["eval.json"])])
    left = sorted(p.relative_to(finished.directory).as_posix() for p in finished.directory.rglob("*") if p.is_file())
    assert left == ["data/a.txt", "data/b.txt", "stages/03-prepare.json"]
    for name in ("export/hf/config.json", "export/peft/adapter.json"):
        finished.path(name).parent.mkdir(parents=True, exist_ok=True)
        finished.path(name).write_text("x")
    finished.forget([(7, "export", ["export/hf/*"])])
    assert not finished.path("export", "hf").exists() and finished.path("export", "peft", "adapter.json").exists()
    finished.forget([(3, "prepare", ["data/*"])])
    assert not finished.is_current(3, "prepare", "inputs") and not finished.path("data").exists()


def test_a_command_renews_the_record_of_what_it_wrote_again(finished):
    other, output = finished.path("data", "card.json"), finished.path("export", "hf", "b.txt")
    for path in (other, output):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
    finished.finish(8, "export", "inputs", [other, output], Rows(2), 1.0, {"file": "x"}, {"device": "cpu"})
    before = finished.record("export")
    output.unlink()
    for path in (other, output.with_name("c.txt")):
        path.write_text("after")
    finished.renew("export", "export/onnx", Rows(3), 5.0)  # another folder
    finished.renew("train", "export/hf", Rows(3), 5.0)  # a stage that has not finished
    assert finished.record("export") == before and not finished.finished("train")
    finished.renew("export", "export/hf", Rows(3), 5.0)
    after = finished.record("export")
    assert list(after.outputs) == ["data/card.json", "export/hf/c.txt"]
    assert finished.changed(after) == ["data/card.json (different content)"]
    assert (after.result, after.seconds) == ({"rows": 3}, 5.0)
    for key in ("stage", "inputs", "external", "machine"):
        assert getattr(after, key) == getattr(before, key)


def test_what_later_stages_depend_on_is_what_was_done_not_when(finished):
    record = finished.record("prepare")
    again = replace(
        record,
        seconds=9.0,
        peak_memory_bytes=1,
        finished="later",
        hardware={},
        git_commit=None,
        inputs="other",
        taken_from="elsewhere",
    )
    assert content(again) == content(record)
    for key, other in (("result", {"rows": 3}), ("outputs", {}), ("external", {"the data's content": "x"})):
        assert content(replace(record, **{key: other})) != content(record)
