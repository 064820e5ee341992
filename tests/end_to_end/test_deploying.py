"""The Python of docs/deploying.md, run as it stands on the exports of a run."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "deploying.md"


def block(title: str, number: int = 0) -> str:
    """A block of Python below a heading."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```", section, flags=re.M | re.S)[number]


@pytest.fixture
def onnx(finetune, toy_copy):
    """A classifier's export in ONNX, beside that of Hugging Face's layout."""
    done = finetune("export", toy_copy, "--format", "onnx")
    assert done.status == 0, done.err
    assert re.search(r"onnxruntime decides the same on (\d+) of \1 texts", done.out), done.out
    return toy_copy / "export" / "onnx"


def run(code: str, directory: Path) -> dict:
    names: dict = {}
    exec(code.replace('"DIRECTORY"', repr(str(directory))), names)
    return names


def test_onnx_predicts_as_the_bundle(onnx, toy_copy, monkeypatch, finetune):
    from finetune.tasks.classify.bundle import Bundle

    expected = Bundle.load(toy_copy).predict(["a text"])
    monkeypatch.syspath_prepend(str(onnx))
    found = run(block("A service without torch: onnxruntime"), onnx)
    assert found["labels"] == expected[0]
    assert abs(found["probabilities"] - expected[1]).max() < 1e-4
    ours, theirs = (finetune("predict", place, "a text", "cash prize").out for place in (toy_copy, onnx))
    assert ours == theirs and ours.count("\n") == 2


def test_transformers_reads_a_classifier(toy_copy):
    found = run(block("transformers"), toy_copy / "export" / "hf")
    assert found["classify"]("win " * 900)[0]["label"] in ("ham", "spam")


def test_scikit_learn_reads_a_bundle(toy_copy):
    assert run(block("scikit-learn"), toy_copy / "export" / "hf")["clf"].classes_.tolist() == ["ham", "spam"]


@pytest.mark.slow
def test_int8_says_its_cost_and_another_kind_is_refused(finetune, toy_copy):
    done = finetune("export", toy_copy, "--format", "onnx", "--quantize", "int8")
    assert done.status == 0 and "95 % interval" in done.out, done.err
    odd = finetune("export", toy_copy, "--format", "hf", "--quantize", "int8")
    assert odd.status == 2 and "got --quantize int8; known: no quantization" in odd.err
