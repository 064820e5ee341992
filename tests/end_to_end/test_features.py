"""A run of method features by the real command: transformers' states and scikit-learn give its head, and what is shared."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from finetune.models.heads import Classifier
from finetune.tasks.classify.task import ClassifyTask

RUN = Path("runs/features")
SETTINGS = ["run", "spam-classifier", "--set", "weights=random-bytes", "--name", "features"]


def records(split: str) -> tuple[list[str], np.ndarray]:
    rows = [json.loads(line) for line in (RUN / "data" / f"{split}.jsonl").read_text().splitlines()]
    return [row["text"] for row in rows], np.array([row["label"] == "spam" for row in rows])


def test_the_bundle_is_scikit_learns_regression_on_transformers_states(finetune):
    done = finetune(*SETTINGS, "--set", "train.method=features")
    assert done.status == 0, done.err
    assert "features: " in done.out and "regularisation C=" in done.out
    bundle = RUN / "export" / "hf"
    model = transformers.GPT2ForSequenceClassification.from_pretrained(bundle).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
    assert model.score.bias is None

    def states(texts: list[str]) -> np.ndarray:
        with torch.no_grad():
            return np.stack(
                [model.transformer(**tokenizer(text, return_tensors="pt"))[0][0, -1].numpy() for text in texts]
            )

    texts, targets = records("train")
    lines = [json.loads(line) for line in (RUN / "train.jsonl").read_text().splitlines()]
    kept = [line["step"] for line in lines if line.get("best")][-1]
    [strength] = [line["strength"] for line in lines if line["step"] == kept and "strength" in line]
    scaler = StandardScaler(with_mean=False).fit(states(texts))
    fitted = LogisticRegression(C=strength, fit_intercept=False, tol=1e-9, max_iter=100_000)
    fitted.fit(scaler.transform(states(texts)), targets)
    held_out = states(records("test")[0])
    wanted = fitted.decision_function(scaler.transform(held_out))
    logits = held_out @ model.score.weight.detach().numpy().T
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], wanted, atol=2e-3 * np.abs(wanted).max())

    again = finetune("report", RUN)
    page = (RUN / "report" / "report.md").read_text()
    assert again.status == 0 and "logistic regression" in page and "Peak learning rate" not in page


@pytest.mark.parametrize("method", ["last-blocks", "features"])
def test_validation_rows_pass_once_and_the_export_compares_what_was_evaluated(finetune, monkeypatch, method):
    seen, lower, state = [], Classifier.lower, Classifier.state

    def count(self, inputs, last, first_block=0):
        seen.extend([len(inputs)] if first_block == 0 else [])
        return state(self, inputs, last, first_block)

    def count_lower(self, ids, last, blocks):
        seen.append(len(ids))
        return lower(self, ids, last, blocks)

    monkeypatch.setattr(Classifier, "state", count)
    monkeypatch.setattr(Classifier, "lower", count_lower)
    monkeypatch.setattr(
        ClassifyTask, "explain", lambda *given: None
    )  # it reads changed texts, and rows for their states
    more = ["--set", f"train.method={method}", "--set", "train.precision=fp32", "--set", "classify.audit=off"]
    assert finetune(*SETTINGS, *more).status == 0
    rows = {name: len(records(name)[0]) for name in ("train", "val", "test")}
    assert sum(seen) == sum(rows.values())
    found = json.loads((RUN / "eval.json").read_text())
    if method == "features":
        return
    seen.clear()
    plain = finetune(*SETTINGS[:-1], "plain", *more, "--set", "train.keep_states=false")
    assert plain.status == 0 and sum(seen) > sum(rows.values())
    other = json.loads(Path("runs/plain/eval.json").read_text())
    assert found["metrics"]["log_loss"]["value"] == pytest.approx(other["metrics"]["log_loss"]["value"], rel=1e-4)
    assert found["temperature"] == pytest.approx(other["temperature"], rel=1e-3)


def test_a_sample_is_compared_unless_all_texts_are_asked_for(toy_copy, finetune, monkeypatch):
    monkeypatch.setattr("finetune.export.hf.SAMPLE", 5)
    done = finetune("export", toy_copy)
    assert done.status == 0 and "the same labels on 5 of 5 texts (a sample of " in done.out, done.out
    done = finetune("export", toy_copy, "--all-texts")
    assert done.status == 0 and "a sample" not in done.out
    assert finetune("export", toy_copy, "--all-texts", "--format", "onnx").status == 2


def test_where_it_is_not_meant_it_is_refused(finetune):
    for more, said in (
        (["--set", "train.epochs=3"], "train.epochs is not used by method features"),
        (["--processes", "2"], "method features runs in one process"),
    ):
        done = finetune(*SETTINGS, "--set", "train.method=features", *more)
        assert done.status == 2 and said in done.err, done.err
    Path("pairs.tsv").write_text("source\ttarget\na\tb\n")
    done = finetune("run", "summarize", "--set", "data=pairs.tsv", "--set", "train.method=features")
    assert done.status == 2 and "method features is for classifiers of texts" in done.err
