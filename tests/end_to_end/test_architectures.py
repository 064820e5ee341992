"""The comparison of architectures by the real command at toy size: what it leaves, and what is not done twice."""

import json
from pathlib import Path

import numpy as np
import pytest

TRAININGS = [
    "classify-encoder-masked",
    "classify-decoder-pretrained",
    "numbers-both-random",
    "text-encoder-pretrained",
    "text-both-pretrained",
]


@pytest.fixture
def command(tmp_path, tools) -> list[str]:
    """The command on a tiny checkpoint and a table of one's own."""
    from finetune.checkpoints.store import write_checkpoint
    from finetune.models.gpt import GPT, GPTConfig
    from finetune.tokenizer import Tokenizer

    config = GPTConfig(257, context=128, width=16, layers=2, heads=2)
    write_checkpoint(tmp_path / "tiny", GPT(config).initialise(1, std=0.1), Tokenizer.of_bytes())
    rows = "".join(f"{text.strip(chr(34))},{label}\n" for text, label in tools.toy_rows(60))
    (tmp_path / "mine.csv").write_text("text,label\n" + rows)
    chosen = {
        "trainings": json.dumps(TRAININGS),
        "classify_steps": 4,
        "numbers_steps": 2,
        "text_steps": 2,
        "test_numbers": 10,
        "piece_tokens": 60,
    }
    return [
        "compare-architectures",
        "--quick",
        "--data",
        "mine.csv",
        "--set",
        "weights=tiny",
        "--set",
        "train.threads=1",
        *(word for key, value in chosen.items() for word in ("--set", f"architectures.{key}={value}")),
    ]


def test_it_resumes_where_it_was_stopped_and_writes_these_files(finetune, command, monkeypatch):
    from finetune.comparisons.architectures import trainings

    work, trained = trainings.fit, []

    def stopped_at_the_fourth(job, settings, directory, identity):
        trained.append(directory.name)
        if len(trained) == 4:
            raise KeyboardInterrupt
        return work(job, settings, directory, identity)

    monkeypatch.setattr(trainings, "fit", stopped_at_the_fourth)
    assert finetune(*command).status == 130
    run = Path("runs/architectures")
    assert len((run / "trainings.jsonl").read_text().splitlines()) == 3 and not (run / "comparison.json").exists()
    done = finetune(*command)
    assert done.status == 0, done.err
    assert trained[0] == "text-encoder-pretrained-123"  # before the one that begins with its weights
    assert trained[3] == trained[4] and len(trained) == 6 and len(set(trained)) == 5

    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert files - {".lock"} == {
        "recipe.json",
        "request.json",
        "log.txt",
        "trainings.jsonl",
        "comparison.json",
        "data/card.json",
        *(f"data/{name}.{kind}" for name in ("train", "val", "test") for kind in ("jsonl", "ids", "ends")),
        "report/index.html",
        "report/report.md",
        *(
            f"stages/{name}.json"
            for name in ("01-download", "02-verify", "03-prepare", "04-architectures", "05-report")
        ),
    }
    lines = {line["key"]: line for line in map(json.loads, (run / "trainings.jsonl").read_text().splitlines())}
    assert {line["steps"] for line in lines.values()} == {2, 4}
    found = json.loads((run / "comparison.json").read_text())
    entries = {entry["name"]: entry for group in found["groups"] for entry in group["entries"]}
    assert set(entries) == set(TRAININGS)
    truth = [json.loads(line)["label"] for line in (run / "data" / "test.jsonl").read_text().splitlines()]
    guessed = [found["labels"][i] for i in lines["classify-encoder-masked-123"]["scores"]]
    assert entries["classify-encoder-masked"]["accuracy"]["value"] == pytest.approx(np.mean(np.array(guessed) == truth))
    assert "one row" in found["masking"] and "does not generate" in done.out

    assert "nothing left to do" in finetune(*command).out and len(trained) == 6
    (run / "report" / "index.html").unlink()
    assert finetune("report", run).status == 0 and (run / "report" / "index.html").exists()


@pytest.mark.parametrize(
    "setting, said",
    [
        ('architectures.trainings=["classify-tree-random"]', "classify-decoder-random"),
        ('architectures.trainings=["classify-encoder-masked"]', "text-encoder-pretrained"),
        ("train.method=lora", "train.method"),
        ("train.epochs=3", "train.epochs"),
    ],
)
def test_unsupported_settings_are_refused_before_training(finetune, command, setting, said):
    done = finetune(*command, "--set", setting)
    assert done.status == 2 and said in done.err, done.err
    assert not list(Path("runs").glob("*/stages"))
