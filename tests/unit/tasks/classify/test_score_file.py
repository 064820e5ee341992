"""A labelled file of any size, scored: texts by the chunk, the same figures as of all rows at once."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from finetune.checkpoints.store import write_checkpoint
from finetune.errors import DataError
from finetune.models.gpt import GPT, GPTConfig
from finetune.tasks.classify import score_file
from finetune.tasks.classify.bundle import Bundle
from finetune.tasks.classify.job import build_model
from finetune.tokenizer import Tokenizer

ORIGIN = {
    "schema_version": 1,
    "task": "classify",
    "data_sha256": "0" * 64,
    "recipe_sha256": "0" * 64,
    "weights": {"name": "mini", "source": "", "licence": "", "sha256": {}, "fallback": True, "note": ""},
}
LABELS = ["a", "b", "c"]
TEXTS = [f"{'xyz'[i % 3]} number {i}" for i in range(25)]
TARGETS = [LABELS[i * i % 3] for i in range(25)]


@pytest.fixture
def bundle(tmp_path):
    """The bundle of a small random model, its directory."""
    tokenizer = Tokenizer.of_bytes()
    gpt = GPT(GPTConfig(tokenizer.vocab_size, 32, 16, 1, 2)).initialise(0, std=0.2)
    model = build_model(gpt, len(LABELS), seed=0)
    model.head.weight.data *= 30
    card = {
        **ORIGIN,
        "labels": LABELS,
        "positive": None,
        "max_length": 32,
        "threshold": None,
        "temperature": 2.0,
        "tokenizer_sha256": tokenizer.fingerprint(),
    }
    write_checkpoint(tmp_path / "bundle", model, tokenizer, extra_files={"bundle.json": json.dumps(card)})
    return tmp_path / "bundle"


def values(lines: list[str]) -> dict[str, float]:
    """The first number of each metric's line; percent as a share."""
    found = {}
    for line in lines[1:]:
        if match := re.match(r"(\w+) +([\d.]+)( %)?", line):
            found[match[1]] = float(match[2]) / (100 if match[3] else 1)
    return found


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_chunks_give_scikit_learns_figures(bundle, tmp_path, monkeypatch, ending):
    monkeypatch.setattr(score_file, "CHUNK", 4)
    frame, path = pd.DataFrame({"text": TEXTS, "label": TARGETS}), tmp_path / f"my.{ending}"
    frame.loc[6, "text"] = None
    {
        "csv": lambda: frame.to_csv(path, index=False),
        "tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        "json": lambda: frame.to_json(path, orient="records"),
        "parquet": lambda: frame.to_parquet(path),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
    }[ending]()
    kept = frame.dropna()
    guessed, probabilities = Bundle.load(bundle).predict(kept["text"].tolist())
    seen, real = [], Bundle.logits
    monkeypatch.setattr(Bundle, "logits", lambda self, texts: seen.append(len(texts)) or real(self, texts))
    lines = score_file.score_file(bundle, path, None, None)
    assert lines[0] == "24 rows; text 'text', label 'label'" and lines[-1] == "note: 1 row left out: empty text"
    assert seen == [4] * 6
    found = values(lines)
    assert found["accuracy"] == pytest.approx(accuracy_score(kept["label"], guessed), abs=6e-4)
    assert found["f1_macro"] == pytest.approx(f1_score(kept["label"], guessed, average="macro"), abs=6e-4)
    assert found["log_loss"] == pytest.approx(log_loss(kept["label"], probabilities, labels=LABELS), abs=6e-4)


def test_an_unknown_label_anywhere_raises_before_scoring(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(score_file, "CHUNK", 4)
    monkeypatch.setattr(Bundle, "logits", None)
    path = tmp_path / "my.csv"
    pd.DataFrame({"text": TEXTS, "label": [*TARGETS[:-2], "d", "e"]}).to_csv(path, index=False)
    with pytest.raises(DataError, match="never saw; got d, e; known: a, b, c"):
        score_file.score_file(bundle, path, None, None)
    path.write_text("text,label\n" + ",a\n" * 9)
    with pytest.raises(DataError, match="no row has a text and a label"):
        score_file.score_file(bundle, path, None, None)


def test_the_encoding_option_applies(bundle, tmp_path):
    path = tmp_path / "my.csv"
    pd.DataFrame({"text": ["café", "thé"], "label": ["a", "b"]}).to_csv(path, index=False, encoding="latin-1")
    with pytest.raises(DataError, match="--encoding cp1252"):
        score_file.score_file(bundle, path, None, None)
    assert score_file.score_file(bundle, path, None, None, "latin-1")[0].startswith("2 rows;")
    assert np.isfinite(list(values(score_file.score_file(bundle, path, None, None, "cp1252")).values())).all()


def test_text_and_label_columns_are_those_of_training(bundle, tmp_path):
    card = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    (bundle / "bundle.json").write_text(json.dumps(card | {"columns": {"text": "title", "label": "topic"}}))
    frame = pd.DataFrame({"text": ["other"] * 25, "label": ["x"] * 25, "title": TEXTS, "topic": TARGETS})
    frame.to_csv(tmp_path / "my.csv", index=False)
    lines = score_file.score_file(bundle, tmp_path / "my.csv", None, None)
    expected = accuracy_score(TARGETS, Bundle.load(bundle).predict(TEXTS)[0])
    assert lines[0] == "25 rows; text 'title', label 'topic'"
    assert values(lines)["accuracy"] == pytest.approx(expected, abs=1e-3)


def test_absent_labels_and_the_positive_class_are_said(bundle, tmp_path):
    path = tmp_path / "my.csv"
    pd.DataFrame({"text": TEXTS, "label": ["a", "b"] * 12 + ["a"]}).to_csv(path, index=False)
    assert "note: no row has the label c; f1_macro averages over all 3" in score_file.score_file(
        bundle, path, None, None
    )
    pd.DataFrame({"text": TEXTS, "label": ["a"] * 25}).to_csv(path, index=False)
    lines = score_file.score_file(bundle, path, None, None)
    assert "f1_macro           not defined (only one class in the 25 rows: a)" in lines


def test_nested_fields_are_scored_and_white_space_is_folded(bundle, tmp_path):
    card = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    columns = {"text": "content.text", "label": "content.topic"}
    (bundle / "bundle.json").write_text(json.dumps(card | {"columns": columns, "white_space": "fold"}))
    rows = [{"content": {"text": f" {text}  ", "topic": own}} for text, own in zip(TEXTS, TARGETS, strict=True)]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = score_file.score_file(bundle, tmp_path / "my.jsonl", None, None)
    assert lines[0] == "25 rows; text 'content.text', label 'content.topic'"
    (bundle / "bundle.json").write_text(json.dumps(card))
    expected = accuracy_score(TARGETS, Bundle.load(bundle).predict(TEXTS)[0])
    assert values(lines)["accuracy"] == pytest.approx(expected, abs=1e-3)
