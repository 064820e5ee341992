"""A run's files that were changed, cut, lost, linked elsewhere or left over: found before they are used."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.errors import RunError
from finetune.export.exportable import Exported
from finetune.files import atomic_write, damage, sha256_tree
from finetune.run import Run

AGAIN = ("run", "runs/toy/recipe.json", "--name", "toy")


def flip(path: Path, place: float = 0.5) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["train.jsonl", "val.jsonl", "test.jsonl", "train.ids", "card.json"])
def test_prepared_data_that_changed_are_prepared_again(toy, finetune, name):
    file = toy / "data" / name
    before = file.read_bytes()
    flip(file)
    done = finetune(*AGAIN, "--until", "train")
    assert done.status == 0 and "[3] prepare" in done.out and "[4] train" not in done.out, done.out + done.err
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", ["val.jsonl", "test.jsonl"])
def test_prepared_data_that_changed_are_not_evaluated(toy, finetune, name):
    file = toy / "data" / name
    before = file.read_bytes()
    flip(file)
    done = finetune(*AGAIN, "--from", "evaluate", "--until", "evaluate")
    assert done.status == 0 and "[3] prepare" in done.out and file.read_bytes() == before, done.out + done.err


@pytest.mark.parametrize("name", ["data/test.jsonl", "data/card.json", "eval.json", "checkpoints/best.json"])
def test_an_export_refuses_changed_files(toy, finetune, name):
    flip(toy / name)
    done = finetune("export", toy, "--out", "bundle")
    assert done.status == 2 and f"{name} (different content)" in done.err and not Path("bundle").exists()


def test_a_report_refuses_an_edited_evaluation(toy, finetune):
    assert finetune("report", toy).status == 0
    file = toy / "eval.json"
    found = json.loads(file.read_text())
    found["headline"]["value"] = 0.99
    file.write_text(json.dumps(found))
    done = finetune("report", toy)
    assert done.status == 2 and "eval.json (different content)" in done.err and "--name toy" in done.err
    done = finetune(*AGAIN)
    assert done.status == 0 and "[5] evaluate" in done.out and json.loads(file.read_text())["headline"]["value"] != 0.99


@pytest.mark.parametrize("name", [".lock", "log.txt", "train.jsonl", "stages", "report", "data", "export/hf/README.md"])
def test_a_link_in_a_run_is_refused_and_what_it_names_is_untouched(toy, finetune, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("precious")
    place = toy / name
    target = outside if place.is_dir() else outside / "mine.txt"
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.symlink_to(target)
    before = sha256_tree(outside)
    for command in (("export", toy), ("report", toy), ("predict", toy, "free cash"), AGAIN, ("doctor", toy)):
        done = finetune(*command)
        assert done.status == 2 and "a symbolic link to" in done.err, (command, done)
        assert sha256_tree(outside) == before, command


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_a_run_is_refused_and_not_waited_for(toy, finetune):
    (toy / "eval.json").unlink()
    os.mkfifo(toy / "eval.json")
    done = finetune("report", toy)
    assert done.status == 2 and "neither a file nor a folder" in done.err


def test_a_link_at_the_name_of_a_draft_is_not_written_through(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    (tmp_path / f".eval.json.{os.getpid()}.tmp").symlink_to(tmp_path / "mine.txt")
    with atomic_write(tmp_path / "eval.json") as file:
        file.write("{}")
    assert (tmp_path / "mine.txt").read_text() == "precious" and (tmp_path / "eval.json").read_text() == "{}"


SHAPED = [
    "recipe.json",
    "request.json",
    "eval.json",
    "data/card.json",
    "checkpoints/best.json",
    "stages/01-download.json",
    "stages/03-prepare.json",
    "stages/04-train.json",
    "stages/05-evaluate.json",
    "export/hf/bundle.json",
    "export/hf/config.json",
    "export/hf/vocab.json",
    "export/hf/MANIFEST.json",
]


@pytest.mark.parametrize("name", SHAPED)
def test_json_of_another_shape_is_a_clear_error_or_is_written_again(toy, finetune, name):
    if name.startswith("export"):
        commands = [("predict", toy, "free cash")]
    else:
        commands = [("export", toy, "--out", "out"), ("report", toy)] if name != "request.json" else []
    for value, command in itertools.product(("null", "[]", "{}", '{"a": [1]}', "0"), [*commands, ("doctor", toy)]):
        (toy / name).write_text(value)
        done = finetune(*command)
        assert done.status == 2, (command, value, done)
        assert done.err.startswith("error: ") or "PROBLEM" in done.out


@pytest.mark.parametrize("name", SHAPED)
@pytest.mark.parametrize("value", ["null", "[]", "{}"])
@pytest.mark.slow
def test_a_run_with_json_of_another_shape_ends_in_words_or_is_repaired(toy, finetune, name, value):
    (toy / name).write_text(value)
    done = finetune(*AGAIN)
    assert done.status in (0, 2) and (done.status == 0 or done.err.splitlines()[-1].startswith("error: ")), done


def test_the_doctor_checks_a_run(toy, finetune):
    sound = finetune("doctor", toy)
    assert sound.status == 0 and "everything works" in sound.out, sound.out
    assert (
        "03-prepare" in sound.out
        and "files as recorded" in sound.out
        and "leftovers of killed processes  none" in sound.out
    )


@pytest.mark.parametrize(
    "name, row",
    [
        ("data/test.jsonl", "03-prepare"),
        ("predictions.csv", "05-evaluate"),
        ("export/hf/model.safetensors", "export/hf"),
        ("stages/04-train.json", "04-train"),
        ("checkpoints/best.json", "best.json"),
        ("recipe.json", "recipe.json"),
    ],
)
def test_the_doctor_finds_what_is_damaged_in_a_run(toy, finetune, name, row):
    (toy / name).write_bytes((toy / name).read_bytes()[:-9])
    done = finetune("doctor", toy)
    assert done.status == 2 and f"{row} " in done.out.partition("problems: ")[0]
    assert row in done.out.partition("problems: ")[2].replace(",", " ").split(), done.out


def test_the_doctor_finds_a_damaged_checkpoint(toy, finetune):
    step = next((toy / "checkpoints").glob("step-*"))
    flip(step / "optimizer.safetensors")
    done = finetune("doctor", toy)
    assert done.status == 2 and f"{step.name}" in done.out.partition("problems: ")[2]
    assert "optimizer.safetensors has changed since it was written" in done.out


def a_dead_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_killed_processes_left_is_deleted_and_what_a_live_one_writes_is_not(toy, finetune):
    dead = a_dead_process()
    left = [toy / "export" / f".hf.{dead}.tmp", toy / f".eval.json.{dead}.tmp", toy / "export" / f".hf.{dead}.old"]
    live = toy / f".table.csv.{os.getppid()}.tmp"
    left[0].mkdir()
    (left[0] / "model.safetensors").write_bytes(bytes(10**6))
    for path in (left[1], left[2], live):
        path.write_text("half")
    done = finetune("doctor", toy)
    assert done.status == 0 and "3, 1.0 MB" in done.out, done.out
    assert finetune("report", toy).status == 0
    assert not any(path.exists() for path in left) and live.exists()


def test_an_export_that_a_killed_process_was_replacing_is_put_back(toy, finetune, monkeypatch):
    """Between its two renames, and by an interrupt there."""
    export, aside = toy / "export" / "hf", toy / "export" / f".hf.{a_dead_process()}.old"
    before = sha256_tree(export)
    export.rename(aside)
    assert finetune("report", toy).status == 0
    assert sha256_tree(export) == before and not aside.exists()

    rename = Path.rename

    def stop(self, target):
        if self.suffix == ".tmp":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        assert finetune("export", toy).status == 130
    assert sha256_tree(export) == before and list(export.parent.iterdir()) == [export]
    assert finetune("doctor", toy).status == 0


def test_an_export_stopped_before_its_record_is_found_and_repaired(toy, finetune, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("finetune.export.hf.compare_classifier", lambda *_: Exported(False, "as the README says"))
        patch.setattr(Run, "renew", stop)
        assert finetune("export", toy).status == 130
    assert not damage(toy / "export" / "hf") and "08-export" in finetune("doctor", toy).out.partition("problems: ")[2]
    assert finetune(*AGAIN).status == 0 and finetune("doctor", toy).status == 0


def test_a_draft_of_a_killed_process_outside_of_a_run_is_deleted_by_the_next(tmp_path):
    left = tmp_path / f".out.csv.{a_dead_process()}.tmp"
    left.write_text("half")
    with atomic_write(tmp_path / "out.csv") as file:
        file.write("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    from finetune.training.log import Log

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("finetune.training.log.open_append", full)
    with pytest.raises(RunError, match=r"cannot write .*train\.jsonl; got No space left"):
        Log(tmp_path / "train.jsonl", 0, writes=True).write({"step": 1})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_while_documents_are_tokenized_names_the_file(tmp_path):
    from finetune.tasks.pretrain.packing import TokenWriter
    from finetune.tokenizer import Tokenizer

    (tmp_path / "train.bin").symlink_to("/dev/full")
    with (
        pytest.raises(RunError, match=r"cannot write .*train\.bin; got No space left"),
        TokenWriter(tmp_path, Tokenizer.of_bytes(), splits=("train",)) as writer,
    ):
        writer.add("train", "x" * 10**6, True)


def test_the_bundled_weights_are_as_their_manifest_says():
    from finetune.hub.assets import asset

    assert damage(asset("weights", "mini")) == ""


def test_damaged_bundled_weights_are_found(tmp_path, monkeypatch, finetune):
    from finetune.checkpoints import sources
    from finetune.commands import doctor, weights
    from finetune.errors import WeightsError
    from finetune.hub.assets import asset

    sound = finetune("weights", "verify", "mini")
    assert sound.status == 0 and "model.safetensors" in sound.out and "all files are intact" in sound.out
    copy = shutil.copytree(asset("weights", "mini"), tmp_path / "mini")
    flip(copy / "model.safetensors")
    monkeypatch.setattr(sources, "asset", lambda *_: copy)
    monkeypatch.setattr(weights, "asset", lambda *_: copy)
    monkeypatch.setattr("finetune.hub.assets.asset", lambda *_: copy)
    for name in (["mini"], []):
        done = finetune("weights", "verify", *name)
        assert done.status == 2 and "model.safetensors has changed since" in done.err
    with pytest.raises(WeightsError, match="model.safetensors has changed since"):
        sources.locate_weights("mini").load()
    assert doctor._weights()[1] is False


def test_a_run_is_listed_without_links_while_another_process_writes(toy, monkeypatch):
    gone = toy / ".eval.json.1.tmp"
    monkeypatch.setattr(Run, "entries", lambda self: [gone])
    assert Run.at(toy).name == "toy"
