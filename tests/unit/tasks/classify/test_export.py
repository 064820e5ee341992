"""The bundle, and what happens when transformers would read it differently."""

import json

import numpy as np
import pytest
import torch

from finetune.errors import WeightsError
from finetune.evaluation.results import StartWeights
from finetune.export import hf
from finetune.models.gpt import GPT, GPTConfig
from finetune.tasks.classify import export
from finetune.tasks.classify.bundle import Bundle, BundleCard
from finetune.tasks.classify.job import build_model
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
def directory(tmp_path):
    return tmp_path / "run" / "export" / "hf"


CARD = BundleCard(
    schema_version=1,
    task="classify",
    labels=LABELS,
    positive=None,
    max_length=20,
    threshold=None,
    columns={"text": "note", "label": "kind"},
    temperature=1.5,
    weights=StartWeights("tiny", "here", "", {}, fallback=False, note=""),
    tokenizer_sha256=TOKENIZER.fingerprint(),
    data_sha256="d" * 64,
    recipe_sha256="e" * 64,
)
FACTS = ["accuracy on 50 held-out texts: 0.9000"]


def write(model, directory):
    """The bundle, as a run writes it."""
    return hf.write(export.exportable("run", model, TOKENIZER, CARD, TEXTS, FACTS), directory)


def test_the_bundle_holds_all_that_a_prediction_needs(directory, model):
    checked = write(model, directory)
    assert checked.compared and checked.same_labels == checked.texts == len(TEXTS)
    assert 0 < checked.max_logit_difference < 1e-4
    card = json.loads((directory / "bundle.json").read_text(encoding="utf-8"))
    assert card["labels"] == LABELS and card["max_length"] == 20 and card["temperature"] == 1.5
    assert card["data_sha256"] == "d" * 64 and card["tokenizer_sha256"] == TOKENIZER.fingerprint()
    assert card["columns"] == {"text": "note", "label": "kind"}
    assert len(card["recipe_sha256"]) == 64 and card["threshold"] is card["positive"] is None
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2ForSequenceClassification"] and config["num_labels"] == 3
    assert config["id2label"] == {"0": "[/x]", "1": "a`b", "2": "spam"}
    assert config["label2id"] == {"[/x]": 0, "a`b": 1, "spam": 2}
    assert [path.name for path in directory.parent.iterdir()] == ["hf"]  # no draft is left
    readme = (directory / "README.md").read_text(encoding="utf-8")
    for words in ("0.9000", "50 held-out", "truncated to 20 tokens"):
        assert words in readme


def test_the_bundle_gives_the_model_s_own_logits(directory, model):
    write(model, directory)
    bundle = Bundle.load(directory)
    with torch.no_grad():
        hidden = [model.body.hidden_states(torch.tensor([TOKENIZER.encode(text)[:20]]))[0, -1] for text in TEXTS]
        expected = (torch.stack(hidden) @ model.head.weight.T).numpy()
    np.testing.assert_allclose(bundle.logits(TEXTS), expected, atol=1e-5)


def sabotaged(kind: str, monkeypatch) -> None:
    """Make transformers read something else than what the model is."""
    write = hf.write_model

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

    monkeypatch.setattr(hf, "write_model", broken)


@pytest.mark.parametrize(
    "kind", ["a tensor is missing", "a weight is off", "one is too many", "another activation", "other merges"]
)
def test_an_export_with_different_logits_is_not_published(directory, model, monkeypatch, kind):
    write(model, directory)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    sabotaged(kind, monkeypatch)
    with pytest.raises(WeightsError, match="transformers reads the export differently"):
        write(model, directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert [path.name for path in directory.parent.iterdir()] == ["hf"]


def test_a_classifier_that_transformers_saved_again_needs_its_bundle_json_back(directory, model, tmp_path):
    import shutil

    from transformers import AutoTokenizer, GPT2ForSequenceClassification

    write(model, directory)
    again = tmp_path / "again"
    GPT2ForSequenceClassification.from_pretrained(directory).save_pretrained(again)
    AutoTokenizer.from_pretrained(directory).save_pretrained(again)
    with pytest.raises(WeightsError, match="a classifier without its bundle.json.*Copy bundle.json into it"):
        Bundle.load(again)
    shutil.copy(directory / "bundle.json", again)
    np.testing.assert_array_equal(Bundle.load(again).logits(TEXTS), Bundle.load(directory).logits(TEXTS))


def test_the_classifier_can_be_traced_with_any_batch_and_length(model):
    """`is_causal` must not come from a shape."""
    from torch.export import Dim, export

    ids, last = torch.zeros(2, 5, dtype=torch.long), torch.tensor([4, 2])
    sizes = ({0: Dim("batch"), 1: Dim("length", max=32)}, {0: Dim("batch")})
    traced = export(model, (ids, last), dynamic_shapes={"inputs": sizes[0], "last": sizes[1]})
    ids, last = torch.randint(0, 257, (3, 9), generator=torch.Generator().manual_seed(1)), torch.tensor([8, 0, 3])
    torch.testing.assert_close(traced.module()(ids, last), model(ids, last), atol=1e-5, rtol=0)
