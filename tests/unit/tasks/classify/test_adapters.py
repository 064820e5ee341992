"""Several adapters on one base: each predicts as the bundle that was merged, and the base is read once."""

import numpy as np
import pytest
import torch

from finetune.adapters.lora import add_lora, lora_tensors, merge
from finetune.checkpoints import sources
from finetune.checkpoints.sources import WeightsSource
from finetune.checkpoints.store import load_checkpoint, write_checkpoint
from finetune.errors import WeightsError
from finetune.evaluation.results import StartWeights
from finetune.export import peft
from finetune.files import write_manifest
from finetune.models.gpt import GPT, GPTConfig
from finetune.tasks.classify.adapters import adapted_bundles
from finetune.tasks.classify.bundle import Bundle, BundleCard, ManyBundle
from finetune.tasks.classify.export import exportable
from finetune.tasks.classify.job import build_model
from finetune.tokenizer import Tokenizer

TOKENIZER = Tokenizer.of_bytes()
TEXTS = ["hello", "free cash, call now", "é" * 20]


@pytest.fixture
def base(tmp_path):
    gpt = GPT(GPTConfig(TOKENIZER.vocab_size, 32, 16, 2, 2)).initialise(0, std=0.2)
    write_checkpoint(tmp_path / "base", gpt, TOKENIZER)
    return tmp_path / "base"


def exported(base, directory, labels, seed, targets, thresholds=None):
    """An adapter with its bundle.json; returns what the merged bundle predicts."""
    model = build_model(load_checkpoint(base).body, len(labels), seed=seed)
    add_lora(model.body, 2, 5.0, 0.0, targets, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for tensor in lora_tensors(model.body).values():
        tensor.data.normal_(0.0, 0.3, generator=generator)
    model.head.weight.data *= 30
    two = len(labels) == 2
    card = BundleCard(
        schema_version=1,
        task="classify",
        labels=labels,
        positive=labels[1] if two else None,
        max_length=12,
        threshold=0.8 if two else None,
        thresholds=thresholds,
        temperature=1.5,
        white_space="fold" if thresholds else "keep",
        weights=StartWeights("base", "here", "", {}, fallback=False, note=""),
        tokenizer_sha256=TOKENIZER.fingerprint(),
        data_sha256="d" * 64,
        recipe_sha256="e" * 64,
    )
    thing = exportable("run", model.eval(), TOKENIZER, card, TEXTS, [])
    peft.write(thing, directory, WeightsSource("base", base, None, "here"))
    plain = merge(model)
    if thresholds:
        return ManyBundle(plain, TOKENIZER, labels, None, 12, None, 1.5, thresholds=thresholds).predict(TEXTS)
    return Bundle(plain, TOKENIZER, labels, card.positive, 12, card.threshold, 1.5).predict(TEXTS)


def test_an_adapter_of_many_labels_keeps_its_thresholds_and_folds_white_space(base, tmp_path):
    expected = exported(base, tmp_path / "many", ["a", "b", "c"], 3, ("mlp.*",), [0.3, 0.5, 0.6])
    [(_, bundle)] = adapted_bundles(str(base), [tmp_path / "many"])
    labels, probabilities = bundle.predict([f"  {text} " for text in TEXTS])
    assert labels == expected[0] and (probabilities.sum(axis=1) > 1.1).any()
    np.testing.assert_allclose(probabilities, expected[1], atol=1e-5)


def test_each_adapter_predicts_as_its_own_merged_bundle(base, tmp_path, monkeypatch):
    one = exported(base, tmp_path / "one", ["ham", "spam"], 1, ("attention.qkv",))
    two = exported(base, tmp_path / "two", ["a", "b", "c"], 2, ("mlp.*",))
    reads, real = [], sources.load_directory
    monkeypatch.setattr(sources, "load_directory", lambda *given: reads.append(given) or real(*given))
    order = [tmp_path / name for name in ("one", "two", "one")]
    for (name, bundle), where in zip(adapted_bundles(str(base), order), order, strict=True):
        labels, probabilities = bundle.predict(TEXTS)
        expected = {"one": one, "two": two}[where.name]
        assert name == str(where) and labels == expected[0]
        np.testing.assert_allclose(probabilities, expected[1], atol=1e-5)
    assert len(reads) == 1


def test_an_adapter_without_a_card_has_transformers_labels(base, tmp_path):
    exported(base, tmp_path / "one", ["ham", "spam"], 1, ("attention.qkv",))
    (tmp_path / "one" / "bundle.json").unlink()
    with pytest.raises(WeightsError, match="damaged or was edited; got bundle.json is missing"):
        [*adapted_bundles(str(base), [tmp_path / "one"])]
    write_manifest(tmp_path / "one")
    [(_, bundle)] = adapted_bundles(str(base), [tmp_path / "one"])
    assert bundle.labels == ["LABEL_0", "LABEL_1"] and bundle.threshold is None


def test_a_card_of_other_labels_is_refused(base, tmp_path):
    exported(base, tmp_path / "one", ["ham", "spam"], 1, ("attention.qkv",))
    exported(base, tmp_path / "two", ["a", "b", "c"], 2, ("mlp.*",))
    (tmp_path / "one" / "bundle.json").write_bytes((tmp_path / "two" / "bundle.json").read_bytes())
    write_manifest(tmp_path / "one")
    with pytest.raises(WeightsError, match="does not fit the adapter"):
        [*adapted_bundles(str(base), [tmp_path / "one"])]


def test_the_command_takes_several(base, tmp_path, monkeypatch, capsys):
    import sys

    from finetune.cli import main

    one = exported(base, tmp_path / "one", ["ham", "spam"], 1, ("attention.qkv",))
    two = exported(base, tmp_path / "two", ["a", "b", "c"], 2, ("mlp.*",))
    arguments = ["predict", base, "--adapter", tmp_path / "one", "--adapter", tmp_path / "two", *TEXTS]
    monkeypatch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    lines = [line.split("\t")[:2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [[str(tmp_path / name), label] for name, own in (("one", one), ("two", two)) for label in own[0]]
