"""What is costly is not done again: no text is tokenized after `prepare`, no base checkpoint read a third time."""

import json
from pathlib import Path

import pytest

from finetune.checkpoints import sources  # through which all starting weights are read
from finetune.stages import prepare
from finetune.tokenizer import Tokenizer

SCRATCH = [
    "--set",
    "weights=scratch",
    "--set",
    "shape.layers=2",
    "--set",
    "shape.width=32",
    "--set",
    "shape.context=64",
    "--set",
    "train.lr=0.01",
]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PAIRS = [(str(n), f"{WORDS[n // 10]} {WORDS[n % 10]}") for n in range(40)]
SEQ2SEQ = [
    "run",
    "seq2seq",
    "--set",
    "data=pairs.tsv",
    *SCRATCH,
    "--set",
    "seq2seq.max_new_tokens=4",
    "--set",
    "split.val_fraction=0.2",
    "--set",
    "split.test_fraction=0.2",
]
COMMANDS = {
    "classify": ["run", "spam-classifier", "--set", "weights=random-bytes"],
    "instruct": ["run", "instruct", "--set", "data=pairs.jsonl", *SCRATCH, "--set", "instruct.max_new_tokens=4"],
    "encoder-decoder": [*SEQ2SEQ, "--set", "seq2seq.family=encoder-decoder"],
    "decoder": [*SEQ2SEQ, "--set", "seq2seq.family=decoder"],
    "pretrain": ["run", "pretrain", "--set", "data=text.txt", *SCRATCH, "--set", "pretrain.val_fraction=0.2"],
}


@pytest.fixture(params=COMMANDS)
def command(request, finetune):
    """A short run of one task, and its data in the directory where ``finetune`` runs."""
    Path("pairs.jsonl").write_text(
        "".join(
            json.dumps({"instruction": f"Read {number}.", "input": "", "output": words}) + "\n"
            for number, words in PAIRS
        )
    )
    Path("pairs.tsv").write_text("digits\tin words\n" + "".join(f"{number}\t{words}\n" for number, words in PAIRS))
    Path("text.txt").write_text(
        "<|endoftext|>\n".join(f"the number {number} is called {words}\n" for number, words in PAIRS)
    )
    return [*COMMANDS[request.param], "--set", "train.epochs=1", "--set", "train.threads=1"]


@pytest.mark.parametrize("last", [("--until", "evaluate"), ("--dry-run",)], ids=["run", "dry-run"])
def test_no_text_is_tokenized_after_prepare(finetune, command, monkeypatch, last):
    prepare_run, prepared, seen = prepare.run, [], set()

    def watch(name):
        original = getattr(Tokenizer, name)

        def encode(self, given, *more, **named):
            texts = {given} if isinstance(given, str) else set(given)
            assert not (prepared and texts & seen), "a text is tokenized again"  # a changed text may be
            seen.update(texts)
            return original(self, given, *more, **named)

        monkeypatch.setattr(Tokenizer, name, encode)

    def run_and_forbid(recipe, run):
        found = prepare_run(recipe, run)
        prepared.append(found.splits)
        return found

    watch("encode_batch")

    monkeypatch.setattr(prepare, "run", run_and_forbid)
    done = finetune(*command, *last)
    assert done.status == 0, done.err
    assert len(prepared) == 1 and prepared[0]["train"] > 20


def test_the_base_checkpoint_is_read_at_most_twice(finetune, command, monkeypatch):
    read = []

    def counted(load):
        def count_and_load(directory, *more):
            read.append(directory)
            return load(directory, *more)

        return count_and_load

    monkeypatch.setattr(sources, "load_directory", counted(sources.load_directory))
    done = finetune(*command)
    assert done.status == 0, done.err
    assert [*Path("runs").glob("*/export/hf/model.safetensors")] and 1 <= len(read) <= 2, read
