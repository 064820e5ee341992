"""A bundle's predictions, and tables in and out."""

import csv
import functools
import json

import numpy as np
import pandas as pd
import pytest
import torch

from finetune.checkpoints.store import write_checkpoint
from finetune.console import progress
from finetune.errors import DataError, WeightsError
from finetune.models.gpt import GPT, GPTConfig
from finetune.tasks.classify import bundle as predict
from finetune.tasks.classify.job import build_model
from finetune.tokenizer import Tokenizer

TOKENIZER = Tokenizer.of_bytes()
LABELS = ["ham", "spam"]
ORIGIN = {
    "schema_version": 1,
    "task": "classify",
    "data_sha256": "0" * 64,
    "recipe_sha256": "0" * 64,
    "weights": {"name": "mini", "source": "", "licence": "", "sha256": {}, "fallback": True, "note": ""},
}


def card(**changes):
    return {
        **ORIGIN,
        "labels": LABELS,
        "positive": "spam",
        "max_length": 12,
        "threshold": 0.5,
        "temperature": 1.0,
        "tokenizer_sha256": TOKENIZER.fingerprint(),
    } | changes


@pytest.fixture
def bundle_at(tmp_path):
    """Write a bundle of a small random model with this card; returns its directory."""

    def write(**changes):
        gpt = GPT(GPTConfig(TOKENIZER.vocab_size, 32, 16, 1, 2)).initialise(0, std=0.2)
        model = build_model(gpt, len(LABELS), seed=0)
        model.head.weight.data *= 30
        files = {"bundle.json": json.dumps(card(**changes))}
        write_checkpoint(tmp_path / "bundle", model, TOKENIZER, extra_files=files)
        return tmp_path / "bundle"

    return write


def test_probabilities_are_the_models_softmax_at_the_temperature(bundle_at):
    texts = ["hello", "free cash for you, call", "x"]
    sharp, soft = (predict.Bundle.load(bundle_at(temperature=value)) for value in (1.0, 4.0))
    with torch.no_grad():
        hidden = [sharp.model.body.hidden_states(torch.tensor([TOKENIZER.encode(text)[:12]]))[0, -1] for text in texts]
        logits = torch.stack(hidden) @ sharp.model.head.weight.T
    for bundle, temperature in ((sharp, 1.0), (soft, 4.0)):
        labels, probabilities = bundle.predict(texts)
        expected = torch.softmax(logits.double() / temperature, -1).numpy()
        np.testing.assert_allclose(probabilities, expected, atol=1e-6)
        assert labels == [LABELS[int(p >= 0.5)] for p in expected[:, 1]]


def test_the_threshold_decides(bundle_at):
    assert predict.Bundle.load(bundle_at(threshold=0.0)).predict(["a", "b"])[0] == ["spam", "spam"]
    assert predict.Bundle.load(bundle_at(threshold=1.1)).predict(["a", "b"])[0] == ["ham", "ham"]


def test_an_uncertain_text_keeps_its_label_and_is_abstained_on(bundle_at, tmp_path):
    texts = ["hello", "free cash for you, call", "x", "y"]
    sure = np.sort(predict.Bundle.load(bundle_at()).predict(texts)[1].max(axis=1))
    bundle = predict.Bundle.load(bundle_at(abstain_below=float(sure[1:3].mean())))
    (tmp_path / "in.csv").write_text("text\n" + "\n".join(f'"{text}"' for text in texts) + "\n")
    predict.predict_table(bundle, tmp_path / "in.csv", tmp_path / "out.csv", None)
    found = pd.read_csv(tmp_path / "out.csv")
    assert list(found)[1:] == ["predicted", "decision", "probability", "p_ham", "p_spam"]
    assert found["predicted"].tolist() == bundle.predict(texts)[0]
    decided = found["probability"] >= bundle.abstain_below
    assert decided.sum() == 2
    assert (found["decision"] == np.where(decided, found["predicted"], "abstain")).all()
    assert [line[1].split("\t")[1] for line in bundle.shown(texts)] == found["decision"].tolist()


def test_costs_of_another_number_of_labels_are_a_damaged_bundle(bundle_at):
    with pytest.raises(WeightsError, match="not in the format of an export; got 3 costs"):
        predict.Bundle.load(bundle_at(costs=[[0, 1, 1], [1, 0, 1], [1, 1, 0]]))


def test_mismatched_files_of_a_bundle_are_refused(bundle_at, tmp_path):
    with pytest.raises(WeightsError, match="does not fit the weights"):
        predict.Bundle.load(bundle_at(labels=["a", "b", "c"], positive=None))
    with pytest.raises(WeightsError, match="tokenizer is not the one"):
        predict.Bundle.load(bundle_at(tokenizer_sha256="0" * 64))
    with pytest.raises(WeightsError, match="not a bundle"):
        predict.Bundle.load(tmp_path)
    with pytest.raises(DataError, match="text 1 is empty"):
        predict.Bundle.load(bundle_at()).predict(["a", ""])


def test_a_table_keeps_its_columns_and_order(bundle_at, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "CHUNK", 2)  # so that the rows cross chunks
    bundle = predict.Bundle.load(bundle_at())
    rows = [["7", "hello"], ["8", ""], ["9", 'a "quoted", text\nof two lines'], ["10", "=1+1"], ["-5.5", "bye"]]
    with open(tmp_path / "in.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *rows])
    counts = predict.predict_table(bundle, tmp_path / "in.csv", tmp_path / "out.csv", None)
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        names, *found = csv.reader(file)
    assert counts == {"rows": 5, "without_text": 1, "text_column": "text", "notes": []}
    assert names == ["id", "text", "predicted", "probability", "p_ham", "p_spam"]
    assert [row[0] for row in found] == ["7", "8", "9", "10", "-5.5"]
    assert [row[1] for row in found] == ["hello", "", rows[2][1], "'=1+1", "bye"]
    assert found[1][2:] == ["", "", "", ""]
    for row, (_, text) in zip(found, rows, strict=True):
        if text:
            labels, probabilities = bundle.predict([text])
            assert row[2] == labels[0]
            assert [float(cell) for cell in row[4:]] == pytest.approx(probabilities[0], abs=1e-6)
            assert float(row[3]) == pytest.approx(probabilities.max(), abs=1e-6)


def test_the_probability_is_that_of_the_predicted_label(bundle_at, tmp_path):
    (tmp_path / "in.csv").write_text("text\nhello\nfree cash\nx\n")
    bundle = predict.Bundle.load(bundle_at(threshold=0.0))
    predict.predict_table(bundle, tmp_path / "in.csv", tmp_path / "out.csv", None)
    found = pd.read_csv(tmp_path / "out.csv")
    assert set(found["predicted"]) == {"spam"} and (found["probability"] == found["p_spam"]).all()
    assert (found["p_spam"] < 0.5).any()


def written(path, rows):
    """Write rows of text and id as the kind of table that the path ends in."""
    frame = pd.DataFrame(rows, columns=["id", "text"])
    write = {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        ".json": lambda: frame.to_json(path, orient="records"),
        ".parquet": lambda: frame.to_parquet(path),
        ".jsonl": lambda: frame.to_json(path, orient="records", lines=True),
    }
    write[path.suffix]()
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_every_kind_of_table_gets_the_same_answers(bundle_at, tmp_path, monkeypatch, ending):
    monkeypatch.setattr(predict, "CHUNK", 3)
    bundle, texts = predict.Bundle.load(bundle_at()), [f"text {i * 'x'}, é" for i in range(8)]
    source = written(tmp_path / f"in{ending}", [[i, text] for i, text in enumerate(texts)])
    predict.predict_table(bundle, source, tmp_path / "out.csv", None)
    found = pd.read_csv(tmp_path / "out.csv")
    labels, probabilities = bundle.predict(texts)
    assert found["id"].tolist() == list(range(8)) and found["text"].tolist() == texts
    assert found["predicted"].tolist() == labels
    np.testing.assert_allclose(found[["p_ham", "p_spam"]], probabilities, atol=1e-6)


def test_texts_are_predicted_in_chunks_and_the_bar_knows_the_total(bundle_at, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, "CHUNK", 4)
    monkeypatch.setattr(predict, "progress", functools.partial(progress, every_seconds=0))
    bundle, seen = predict.Bundle.load(bundle_at()), []
    real = predict.Bundle.logits
    monkeypatch.setattr(predict.Bundle, "logits", lambda self, texts: seen.append(len(texts)) or real(self, texts))
    source = written(tmp_path / "in.csv", [[i, f"text {i}"] for i in range(10)])
    predict.predict_table(bundle, source, tmp_path / "out.csv", None)
    assert seen == [4, 4, 2] and "predicting: 8/10 rows" in capsys.readouterr().out


def test_the_encoding_option_applies_and_a_bad_row_raises_before_predicting(bundle_at, tmp_path, monkeypatch):
    bundle, source = predict.Bundle.load(bundle_at()), tmp_path / "in.csv"
    source.write_bytes("text,id\ncafé,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8.*--encoding cp1252"):
        predict.predict_table(bundle, source, tmp_path / "out.csv", None)
    predict.predict_table(bundle, source, tmp_path / "out.csv", None, "cp1252")
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[1].startswith("café,1,")
    source.write_text("text,id\n" + "a,1\n" * 50 + "a,1,2\n")
    monkeypatch.setattr(predict.Bundle, "logits", None)
    with pytest.raises(DataError, match="line 52: 3 fields"):
        predict.predict_table(bundle, source, tmp_path / "other.csv", None)
    assert not (tmp_path / "other.csv").exists()


def test_columns_that_would_clash_are_refused_or_replaced(bundle_at, tmp_path):
    (tmp_path / "in.csv").write_text("text,predicted,p_ham,n\na,b,c,1\n")
    with pytest.raises(DataError, match="columns that the output adds.*predicted"):
        predict.predict_table(predict.Bundle.load(bundle_at()), tmp_path / "in.csv", tmp_path / "out.csv", None)
    assert not (tmp_path / "out.csv").exists()
    bundle = predict.Bundle.load(bundle_at())
    predict.predict_table(bundle, tmp_path / "in.csv", tmp_path / "out.csv", None, overwrite=True)
    found = pd.read_csv(tmp_path / "out.csv")
    assert list(found) == ["text", "n", "predicted", "probability", "p_ham", "p_spam"]
    assert found["predicted"][0] in LABELS and 0 <= found["p_ham"][0] <= 1


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_kind_of_output_has_the_rows_the_types_and_the_same_answers(
    bundle_at, tmp_path, monkeypatch, kind, ending
):
    monkeypatch.setattr(predict, "CHUNK", 2)
    bundle, target = predict.Bundle.load(bundle_at()), tmp_path / f"out.{ending}"
    frame = pd.DataFrame({"n": [1, 2, 3], "text": ["see you", None, "=1+1 \u00e9"], "ok": [True, False, True]})
    {
        "csv": lambda path: frame.to_csv(path, index=False),
        "jsonl": lambda path: frame.to_json(path, orient="records", lines=True),
        "parquet": frame.to_parquet,
    }[kind](tmp_path / f"in.{kind}")
    predict.predict_table(bundle, tmp_path / f"in.{kind}", target, None)
    found = {
        "csv": pd.read_csv,
        "tsv": lambda path: pd.read_csv(path, sep="\t"),
        "jsonl": lambda path: pd.read_json(path, lines=True),
        "parquet": pd.read_parquet,
    }[ending](target)
    assert list(found) == ["n", "text", "ok", "predicted", "probability", "p_ham", "p_spam"]
    formula = "'" if ending in ("csv", "tsv") else ""
    assert (
        found["text"][0] == "see you"
        and found["text"].fillna("")[1] == ""
        and found["text"][2] == f"{formula}=1+1 \u00e9"
    )
    labels, probabilities = bundle.predict(["see you", "=1+1 \u00e9"])
    assert found["predicted"][[0, 2]].tolist() == labels and pd.isna(found.loc[1, ["predicted", "p_ham"]]).all()
    np.testing.assert_allclose(found.loc[[0, 2], ["p_ham", "p_spam"]], probabilities, atol=1e-6)
    if ending == kind != "csv":
        assert found["n"].tolist() == [1, 2, 3] and found["ok"].tolist() == [True, False, True]


def test_names_that_two_columns_share_cannot_be_keys(bundle_at, tmp_path):
    (tmp_path / "in.csv").write_text("text,a,a\nx,1,2\n")
    with pytest.raises(DataError, match="several columns have the same name; got a"):
        predict.predict_table(predict.Bundle.load(bundle_at()), tmp_path / "in.csv", tmp_path / "out.jsonl", None)
    assert not (tmp_path / "out.jsonl").exists()


def test_nested_fields_are_read_and_the_object_is_kept(bundle_at, tmp_path):
    bundle = predict.Bundle.load(bundle_at(columns={"text": "content.text", "label": "label"}))
    rows = [{"id": n, "content": {"text": text, "by": None}} for n, text in enumerate(["see you", "win cash"])]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    counts = predict.predict_table(bundle, tmp_path / "in.jsonl", tmp_path / "out.jsonl", None)
    found = list(map(json.loads, (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()))
    assert counts["text_column"] == "content.text" and [own["content"] for own in found] == [r["content"] for r in rows]
    assert [own["predicted"] for own in found] == bundle.predict(["see you", "win cash"])[0]


@pytest.mark.parametrize(
    "lines, rows, note",
    [
        (["see you at six", "win cash now"], 2, "the first row is data, as its only cell is a text: 'see you at six'"),
        (["remark", "win cash now"], 1, "'remark' is read as the header; if it is a text to predict, add --no-header"),
        (["Text", "win cash now"], 1, ""),
    ],
)
def test_the_first_row_of_a_single_column_is_not_lost_in_silence(bundle_at, tmp_path, lines, rows, note):
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    bundle = predict.Bundle.load(bundle_at())
    counts = predict.predict_table(bundle, tmp_path / "in.csv", tmp_path / "out.csv", None)
    assert counts["rows"] == rows and note in "".join(counts["notes"]) and bool(note) == bool(counts["notes"])


@pytest.mark.parametrize(
    "names, given, read",
    [
        (["text", "title", "body"], None, "title,body"),
        (["text", "title"], None, "text"),
        (["text", "title"], "title", "title"),
        (["id", "remark"], None, "remark"),
    ],
)
def test_the_text_column_is_the_trained_one_then_a_usual_name_then_the_wordiest(
    bundle_at, tmp_path, names, given, read
):
    bundle = predict.Bundle.load(bundle_at(columns={"text": "title,body", "label": "label"}))
    rows = {name: [f"{name} of row {row}" if name != "id" else str(row) for row in range(6)] for name in names}
    pd.DataFrame(rows).to_csv(tmp_path / "in.csv", index=False)
    counts = predict.predict_table(bundle, tmp_path / "in.csv", tmp_path / "out.csv", given)
    found = pd.read_csv(tmp_path / "out.csv")
    texts = ["\n".join(rows[name][row] for name in read.split(",")) for row in range(6)]
    assert counts["text_column"] == read
    np.testing.assert_allclose(found["p_spam"], bundle.predict(texts)[1][:, 1], atol=2e-6)


def test_a_table_without_a_header_keeps_its_first_row(bundle_at, tmp_path):
    bundle = predict.Bundle.load(bundle_at())
    (tmp_path / "in.csv").write_text("1,see you at six\n2,win cash now\n3,are you there\n4,call us back\n")
    counts = predict.predict_table(bundle, tmp_path / "in.csv", tmp_path / "out.csv", None, header=False)
    names, *rows = csv.reader((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines())
    assert counts["rows"] == 4 and names[:2] == ["column_1", "column_2"] and rows[0][:2] == ["1", "see you at six"]


@pytest.mark.parametrize(
    "text, width, rows",
    [("win cash now, call us\n", 2, 1), ("one\ntwo\nthree\n", 1, 3), ("see you at six,a\ntext,label\n", 2, 2)],
)
def test_without_a_header_few_rows_and_odd_ones_are_read_too(bundle_at, tmp_path, text, width, rows):
    bundle = predict.Bundle.load(bundle_at())
    (tmp_path / "in.csv").write_text(text)
    named = {1: None, 2: "column_1"}[width]
    counts = predict.predict_table(bundle, tmp_path / "in.csv", tmp_path / "out.csv", named, header=False)
    assert (counts["rows"], counts["text_column"]) == (rows, "column_1")
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(DataError, match="a file of this kind always has column names; got parquet"):
        predict.predict_table(bundle, tmp_path / "in.parquet", tmp_path / "out.csv", None, header=False)
