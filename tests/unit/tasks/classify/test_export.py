"""The bundle, and what happens when transformers would read it differently."""

import builtins
import json

import numpy as np
import pytest
import torch

from finetune.errors import WeightsError
from finetune.evaluation.results import Headline, StartWeights
from finetune.files import write_json
from finetune.models.gpt import GPT, GPTConfig
from finetune.recipe import Recipe
from finetune.records import DataOrigin
from finetune.run import Run
from finetune.tasks.classify import export
from finetune.tasks.classify.bundle import Bundle
from finetune.tasks.classify.data import NearDuplicateCounts, TableCard, TokenCounts
from finetune.tasks.classify.job import build_model
from finetune.tasks.classify.score import ClassifierEvaluation, CleanRows, Curves
from finetune.tokenizer import Tokenizer

TOKENIZER, LABELS = Tokenizer.of_bytes(), ["[/x]", "a`b", "spam"]
TEXTS = ["hello", "free cash <|endoftext|>", "é" * 40, "x"]


@pytest.fixture
def model():
    """A small random model whose errors would show: std 0.2 and a head that spreads the labels."""
    gpt = GPT(GPTConfig(TOKENIZER.vocab_size, 32, 16, 2, 2)).initialise(0, std=0.2)
    model = build_model(gpt, len(LABELS), seed=0).eval()
    model.head.weight.data *= 30
    return model


@pytest.fixture
def run(tmp_path):
    """A run that is evaluated, with as much in it as an export reads."""
    run = Run(tmp_path / "run")
    weights = StartWeights("tiny", "here", "CC0", {}, fallback=False, note="")
    evaluation = ClassifierEvaluation(
        schema_version=1, task="classify", method="full", weights=weights, seconds=1.0,
        headline=Headline(0.9, 0.8, 0.95, 50, metric="accuracy", split="test"), metrics={}, validation={}, baselines=[],
        labels=LABELS, positive=None, confusion_matrix=[], per_class=[], clean=CleanRows({}, 50), overlap={},
        threshold=None, threshold_rule=None, temperature=1.5, reliability=[], curves=Curves(None, None, ""))
    card = TableCard(
        rows=250, labels={}, columns={"text": "note", "label": "kind"}, dropped={}, exact_duplicates=0, groups=250,
        protocol="grouped", seed=1, splits={}, unused_rows=0, tokens=TokenCounts(3, 9, 40, 900, 20, 1),
        near_duplicates=NearDuplicateCounts(0, 0), checks=[], notes=[])
    write_json(run.path("eval.json"), evaluation.to_json())
    write_json(run.path("data", "card.json"),
               card.of(DataOrigin("toy", "toy.csv", "us", "CC0", "Us 2020", "d" * 64)).to_json())
    run.finish(1, "download", "", [], {"data": {"sha256": "d" * 64}}, 0)
    run.finish(3, "prepare", "", [], {"labels": LABELS, "max_length": 20}, 0)
    return run


def test_the_bundle_holds_all_that_a_prediction_needs(run, model):
    checked = export.write_bundle(run, Recipe(pipeline="classify"), model, TOKENIZER, TEXTS)
    assert checked["compared"] and checked["same_labels"] == checked["texts"] == len(TEXTS)
    assert 0 < checked["max_logit_difference"] < 1e-4
    directory = run.path("export", "hf")
    card = json.loads((directory / "bundle.json").read_text(encoding="utf-8"))
    assert card["labels"] == LABELS and card["max_length"] == 20 and card["temperature"] == 1.5
    assert card["data_sha256"] == "d" * 64 and card["tokenizer_sha256"] == TOKENIZER.fingerprint()
    assert card["columns"] == {"text": "note", "label": "kind"}
    assert len(card["recipe_sha256"]) == 64 and card["threshold"] is card["positive"] is None
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2ForSequenceClassification"] and config["num_labels"] == 3
    assert config["id2label"] == {"0": "[/x]", "1": "a`b", "2": "spam"}
    assert config["label2id"] == {"[/x]": 0, "a`b": 1, "spam": 2}
    assert [path.name for path in run.path("export").iterdir()] == ["hf"]  # no draft is left
    readme = (directory / "README.md").read_text(encoding="utf-8")
    for words in ("0.9000", "0.8000 to 0.9500", "50 held-out", "licence: CC0", "cite: Us 2020", "cut at 20 tokens"):
        assert words in readme


def test_the_bundle_gives_the_model_s_own_logits(run, model):
    export.write_bundle(run, Recipe(), model, TOKENIZER, TEXTS)
    bundle = Bundle.load(run.path("export", "hf"))
    with torch.no_grad():
        hidden = [model.gpt.hidden_states(torch.tensor([TOKENIZER.encode(text)[:20]]))[0, -1] for text in TEXTS]
        expected = (torch.stack(hidden) @ model.head.weight.T).numpy()
    np.testing.assert_allclose(bundle.logits(TEXTS), expected, atol=1e-5)


def sabotaged(kind: str, monkeypatch) -> None:
    """Make transformers read something else than what the model is."""
    write = export.write_checkpoint

    def broken(directory, model, tokenizer, config, files):
        write(directory, model, tokenizer, config, files)
        from safetensors.torch import load_file, save_file
        tensors = load_file(directory / "model.safetensors")
        if kind == "a tensor is missing":
            del tensors["transformer.h.1.mlp.c_fc.weight"]
        if kind == "a weight is off":
            tensors["transformer.h.1.mlp.c_fc.weight"][0, 0] += 1
        if kind == "one is too many":
            tensors["transformer.extra.weight"] = torch.zeros(2)
        if kind == "another activation":
            settings = json.loads((directory / "config.json").read_text())
            (directory / "config.json").write_text(json.dumps(settings | {"activation_function": "relu"}))
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        if kind == "other merges":
            (directory / "merges.txt").write_text("#version: 0.2\nh e\n")
            vocab = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
            vocab = {("he" if token == "!" else token): number for token, number in vocab.items()}
            (directory / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    monkeypatch.setattr(export, "write_checkpoint", broken)


@pytest.mark.parametrize("kind", ["a tensor is missing", "a weight is off", "one is too many", "another activation",
                                  "other merges"])
def test_an_export_that_reads_differently_is_never_there(run, model, monkeypatch, kind):
    export.write_bundle(run, Recipe(), model, TOKENIZER, TEXTS)
    before = {path.name: path.read_bytes() for path in run.path("export", "hf").iterdir()}
    sabotaged(kind, monkeypatch)
    with pytest.raises(WeightsError, match="transformers reads the export differently"):
        export.write_bundle(run, Recipe(), model, TOKENIZER, TEXTS)
    assert {path.name: path.read_bytes() for path in run.path("export", "hf").iterdir()} == before
    assert [path.name for path in run.path("export").iterdir()] == ["hf"]


def test_without_transformers_it_says_that_nothing_was_compared(run, model, monkeypatch):
    real = builtins.__import__

    def without(name, *more, **named):
        if name.partition(".")[0] == "transformers":
            raise ImportError(name)
        return real(name, *more, **named)
    monkeypatch.setattr(builtins, "__import__", without)
    checked = export.write_bundle(run, Recipe(), model, TOKENIZER, TEXTS)
    assert checked == {"compared": False, "summary": "written; not compared, transformers is not installed"}
    assert "not compared" in run.path("export", "hf", "README.md").read_text(encoding="utf-8")
