"""Bundles that are damaged, edited, half-written or being replaced: never a wrong answer, never half a directory."""

import json
import os
import random
import struct
import threading
from pathlib import Path

import pytest

from finetune.errors import RunError, WeightsError
from finetune.files import damage, replace_directory
from finetune.tasks.classify.bundle import Bundle


def test_a_flipped_bit_in_the_weights_is_found(toy, finetune):
    file = toy / "export" / "hf" / "model.safetensors"
    content = file.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    draw = random.Random(0)
    for _ in range(12):
        damaged = bytearray(content)
        damaged[start + 4 * draw.randrange((len(content) - start) // 4) + 3] ^= 1 << draw.randrange(7)  # the exponent
        file.write_bytes(damaged)
        done = finetune("predict", toy, "free cash")
        assert done.status == 2 and "model.safetensors has changed since it was written" in done.err, done
    file.write_bytes(content)
    assert finetune("predict", toy, "free cash").status == 0


@pytest.mark.parametrize("change", [{"temperature": 2.0}, {"labels": ["spam", "ham"]}, {"threshold": 0.1}])
def test_an_edited_card_is_found(toy, finetune, change):
    file = toy / "export" / "hf" / "bundle.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    done = finetune("predict", toy, "free cash")
    assert done.status == 2 and "bundle.json has changed since it was written" in done.err


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"threshold": float("nan")},
        {"max_length": 0},
        {"max_length": -5},
        {"labels": ["ham"]},
    ],
)
def test_a_card_that_makes_no_sense_is_refused_without_a_manifest_too(toy, change):
    directory = toy / "export" / "hf"
    (directory / "MANIFEST.json").unlink()
    Bundle.load(directory)
    file = directory / "bundle.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(WeightsError, match="bundle.json"):
        Bundle.load(directory)


def test_a_readme_may_be_edited(toy, finetune):
    (toy / "export" / "hf" / "README.md").write_text("mine")
    assert finetune("predict", toy, "free cash").status == 0


def test_an_export_elsewhere_appears_whole_or_not_at_all(toy, finetune, monkeypatch):
    import shutil

    whole = shutil.copytree
    monkeypatch.setattr(shutil, "copytree", lambda source, target: whole(source, target) and 1 / 0)
    from finetune.cli import main

    monkeypatch.setattr("sys.argv", ["finetune", "export", str(toy), "--out", "bundle"])
    with pytest.raises(ZeroDivisionError):
        main()
    assert not Path("bundle").exists() and not list(Path().glob(".bundle*"))
    monkeypatch.setattr(shutil, "copytree", whole)
    done = finetune("export", toy, "--out", "bundle")
    assert done.status == 0 and damage(Path("bundle")) == "" and not list(Path().glob(".bundle*"))
    again = finetune("export", toy, "--out", "bundle")
    assert again.status == 2 and "bundle: already exists" in again.err


def test_what_a_killed_export_left_does_not_stop_the_next(toy, finetune):
    from finetune.commands import export

    left = Path(f".bundle.{2**22 + 1}.tmp")  # no process has so high a number
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    export._copy(toy / "export" / "hf", Path("bundle"))
    assert not left.exists() and damage(Path("bundle")) == ""


def test_of_two_exports_to_one_folder_one_wins_and_the_other_says_so(toy):
    from finetune.commands import export

    ready, outcomes = threading.Barrier(2), []

    def copy() -> None:
        ready.wait()
        try:
            outcomes.append(export._copy(toy / "export" / "hf", Path("bundle")))
        except RunError as error:
            outcomes.append(str(error))

    names = iter(range(100))
    temporary = export.temporary_path
    try:  # threads have one process id: give each a draft of its own, as processes have
        export.temporary_path = lambda path: path.with_name(f".{path.name}.{2**22 + next(names)}.tmp")
        threads = [threading.Thread(target=copy) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        export.temporary_path = temporary
    assert sorted(map(str, outcomes)) == ["bundle", "bundle: already exists. Choose another --out."]
    assert damage(Path("bundle")) == "" and not list(Path().glob(".bundle*"))


def test_predictions_while_exports_replace_the_bundle_are_of_one_bundle(toy, tmp_path):
    """Two bundles with other weights and labels take each other's place; a mix of both would answer otherwise."""
    import shutil

    from finetune.checkpoints.store import write_checkpoint
    from finetune.files import write_manifest

    directory = toy / "export" / "hf"
    one, other = shutil.copytree(directory, tmp_path / "one"), tmp_path / "other"
    bundle = Bundle.load(one)
    card = json.loads((one / "bundle.json").read_text()) | {"labels": ["yes", "no"], "positive": "no"}
    bundle.model.head.weight.data.mul_(-3)
    write_checkpoint(other, bundle.model, bundle.tokenizer, extra_files={"bundle.json": json.dumps(card)})
    write_manifest(other)
    answers = {str([*map(list, Bundle.load(place).predict(["free cash"]))]) for place in (one, other)}
    assert len(answers) == 2
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for place in (other, one):
                draft = directory.with_name(f".hf.{os.getpid()}.tmp")
                shutil.copytree(place, draft)
                replace_directory(directory, draft)
                stop.wait(0.1)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        seen = {str([*map(list, Bundle.load(toy).predict(["free cash"]))]) for _ in range(40)}
    finally:
        stop.set()
        thread.join()
    assert seen <= answers and seen


def test_the_readme_of_a_bundle_shows_labels_and_names_as_text(tmp_path):
    from finetune.evaluation.results import StartWeights
    from finetune.export import hf
    from finetune.models.gpt import GPT, GPTConfig
    from finetune.tasks.classify import export
    from finetune.tasks.classify.bundle import BundleCard
    from finetune.tasks.classify.job import build_model
    from finetune.tokenizer import Tokenizer

    tokenizer = Tokenizer.of_bytes()
    labels = ["\x1b[31mred", "<script>alert(1)</script>", "[click](http://x)", "two\n# lines"]
    model = build_model(GPT(GPTConfig(tokenizer.vocab_size, 32, 16, 1, 2)).initialise(0), len(labels), seed=0)
    card = BundleCard(
        schema_version=1,
        task="classify",
        labels=labels,
        positive=None,
        max_length=20,
        threshold=None,
        temperature=1.0,
        weights=StartWeights("<b>tiny</b>", "\x9bhere", "", {}, fallback=False, note=""),
        tokenizer_sha256=tokenizer.fingerprint(),
        data_sha256="d" * 64,
        recipe_sha256="e" * 64,
    )
    hf.write(export.exportable("run", model, tokenizer, card, ["a text"], []), tmp_path / "hf")
    text = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    assert "\x1b" not in text and "\x9b" not in text and "<" not in text.replace("<|endoftext|>", "")
    assert "&lt;script&gt;" in text and r"\[click\]" in text and "\n# lines" not in text
    assert Bundle.load(tmp_path / "hf").labels == labels
