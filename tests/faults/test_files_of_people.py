"""Each kind of file that a table may come in goes through the commands with the same rows."""

import csv
import gzip
import io
import json
import sys
from pathlib import Path

import pytest

TEXTS = [f"{('lunch at home', 'win a prize')[i % 2]} {'x' * (i // 2)}" for i in range(40)]
LABELS = ["ham", "spam"] * 20
CSV = "".join(f"{text},{label}\n" for text, label in zip(["text", *TEXTS], ["label", *LABELS], strict=True))
TRAIN = ["--weights", "random-bytes", "--name", "one"]
SHORT = ["--set", "train.max_steps=2", "--set", "max_length=16", "--set", "evaluate.resamples=100"]


def packed() -> str:
    Path("my.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    return "my.csv.gz"


def workbook() -> str:
    from openpyxl import Workbook

    book = Workbook()
    for row in csv.reader(io.StringIO(CSV)):
        book.active.append(row)
    book.save("my.xlsx")
    return "my.xlsx"


def folder() -> str:
    for i, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True)):
        path = Path("mails", label, f"{i:02}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return "mails"


def wrapped() -> str:
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    Path("my.json").write_text(json.dumps({"data": rows}))
    return "my.json"


KINDS = {"packed": packed, "workbook": workbook, "folder": folder, "wrapped": wrapped}


def give(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def read_pairs() -> set[tuple[str, str]]:
    files = [Path("runs/one/data", f"{name}.jsonl") for name in ("train", "val", "test")]
    rows = [json.loads(line) for file in files for line in file.open(encoding="utf-8")]
    return {(row["text"], row["label"]) for row in rows}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_checked_and_prepared(kind, ran):
    name = KINDS[kind]()
    status, shown = ran("data", "check", name)
    assert status == 0 and "rows     40" in shown, shown
    status, shown = ran("classify", name, *TRAIN, "--until", "prepare")
    assert status == 0 and read_pairs() == set(zip(TEXTS, LABELS, strict=True)), shown
    status, shown = ran("classify", name, *TRAIN, "--until", "prepare")
    assert status == 0 and "nothing left to do" in shown, shown


def test_a_changed_text_in_a_folder_is_other_data(ran):
    folder()
    ran("classify", "mails", *TRAIN, "--until", "prepare")
    Path("mails/ham/00.txt").write_text("another text")
    assert "run runs/one-2" in ran("classify", "mails", *TRAIN, "--until", "prepare")[1]


def test_standard_input_is_checked_learnt_scored_and_predicted(ran, monkeypatch):
    give(monkeypatch, CSV.encode())
    assert "rows     40" in ran("data", "check", "-")[1]
    give(monkeypatch, CSV.encode())
    status, shown = ran("classify", "-", *TRAIN, *SHORT)
    assert status == 0 and read_pairs() == set(zip(TEXTS, LABELS, strict=True)), shown
    (kept,) = Path("runs/tables").iterdir()
    assert kept.read_bytes() == CSV.encode() and kept.name.startswith("stdin-")
    give(monkeypatch, CSV.encode())
    assert ran("evaluate", "runs/one", "-")[1].startswith("40 rows; text 'text', label 'label'; positive class 'spam'")
    give(monkeypatch, b"win a prize\n\nlunch at home\n")
    lines = ran("predict", "runs/one", "-")[1].splitlines()
    assert lines == ran("predict", "runs/one", "win a prize", "lunch at home")[1].splitlines() and len(lines) == 2
    give(monkeypatch, "\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(TEXTS)).encode())
    status, shown = ran("predict", "runs/one", "--csv", "-", "--out", "out.parquet")
    assert status == 0, shown
    import pandas

    found = pandas.read_parquet("out.parquet")
    assert list(found) == ["id", "text", "predicted", "probability", "p_ham", "p_spam"]
    assert found["text"].tolist() == TEXTS and set(found["predicted"]) <= set(LABELS)
    give(monkeypatch, b"")
    for command in (["classify", "-"], ["predict", "runs/one", "-"], ["data", "check", "-"]):
        status, shown = ran(*command)
        assert status == 2 and "standard input is empty" in shown
