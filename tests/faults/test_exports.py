"""Every format on a full disk, in a place that cannot be written, over an older export, and read differently elsewhere."""

import contextlib
import errno
import os
from pathlib import Path

import pytest
import torch

from finetune.adapters.lora import add_lora, lora_tensors
from finetune.checkpoints.sources import WeightsSource
from finetune.checkpoints.store import write_checkpoint
from finetune.errors import WeightsError
from finetune.evaluation.results import StartWeights
from finetune.export import gguf, hf, html, onnx, peft
from finetune.export.exportable import Exportable
from finetune.files import damage
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.gpt import GPT, GPTConfig
from finetune.tasks.classify.bundle import BundleCard
from finetune.tasks.classify.export import exportable
from finetune.tasks.classify.job import build_model
from finetune.tasks.tag import export as tag
from finetune.tasks.tag.bundle import TagBundleCard
from finetune.tasks.tag.data import encode_words
from finetune.tasks.tag.model import Tagger
from finetune.tokenizer import Tokenizer

resource = pytest.importorskip("resource")
TOKENIZER = Tokenizer.of_bytes()
TEXTS = ["hello", "free cash, call now", "é" * 9]
WORDS = [["Rain", "in", "Oslo"], ["No"]]
KINDS = ["classifier", "language model", "encoder-decoder", "tagger", "onnx", "gguf", "html", "peft"]
ABOUT = {
    "schema_version": 1,
    "max_length": 20,
    "weights": StartWeights("tiny", "here", "", {}, fallback=False, note=""),
    "tokenizer_sha256": TOKENIZER.fingerprint(),
    "data_sha256": "d" * 64,
    "recipe_sha256": "e" * 64,
}


def small() -> GPT:
    return GPT(GPTConfig(TOKENIZER.vocab_size, 32, 32, 2, 2)).initialise(0, std=0.2).eval()


def classifier(model) -> Exportable:
    card = BundleCard(task="classify", labels=["ham", "spam"], positive="spam", threshold=0.7, temperature=1.5, **ABOUT)
    return exportable("run", model.eval(), TOKENIZER, card, TEXTS, [])


def tagger() -> Exportable:
    model, card = Tagger(small(), 3).initialise_head(0).eval(), TagBundleCard(task="tag", tags=["O", "B", "I"], **ABOUT)
    tokens, texts = encode_words(TOKENIZER, WORDS, 20), [" ".join(own) for own in WORDS]

    def layout(directory: Path):
        tag.write_tagger(directory, model, TOKENIZER, card)
        return tag.compare(directory, model, tokens, texts)

    return Exportable("run", model.body, TOKENIZER, str, layout=layout)


@pytest.fixture
def export(request, tmp_path, monkeypatch):
    """Write an export of the test's kind to ``out/bundle``."""
    kind, directory = request.param, tmp_path / "out" / "bundle"
    monkeypatch.setattr(gguf, "has_llama_cpp", lambda: False)  # which does not load a vocabulary of bytes
    things = {
        "classifier": (hf, lambda: classifier(build_model(small(), 2, seed=0))),
        "language model": (hf, lambda: Exportable("run", small(), TOKENIZER, str)),
        "encoder-decoder": (hf, lambda: Exportable("run", two_sides(), TOKENIZER, str)),
        "tagger": (hf, tagger),
        "onnx": (onnx, lambda: classifier(build_model(small(), 2, seed=0))),
        "gguf": (gguf, lambda: Exportable("run", small(), TOKENIZER, str)),
        "html": (html, lambda: classifier(build_model(small(), 2, seed=0))),
        "peft": (peft, adapted),
    }
    format, make = things[kind]
    base = WeightsSource("tiny", tmp_path / "base", None, "here")
    write_checkpoint(base.directory, small(), TOKENIZER)
    if kind == "onnx":  # a trace takes seconds
        traced = tmp_path / "traced.onnx"
        onnx._trace(make().model, traced, {})
        monkeypatch.setattr(onnx, "_trace", lambda _, path, metadata: saved(traced, path, metadata))
    return lambda: format.write(make(), directory, base), directory, format


def two_sides() -> EncoderDecoder:
    return EncoderDecoder(EncoderDecoderConfig(TOKENIZER.vocab_size, 32, 32, 1, 2)).initialise(0, std=0.2).eval()


def adapted() -> Exportable:
    model = build_model(small(), 2, seed=0)
    add_lora(model.body, 16, 16.0, 0.0, ("*",), seed=1)
    for tensor in lora_tensors(model.body).values():
        tensor.data.normal_(0.0, 0.2, generator=torch.Generator().manual_seed(2))
    return classifier(model)


def saved(traced: Path, path: Path, metadata: dict) -> None:
    import onnx as library

    graph = library.load(traced)
    library.helper.set_model_props(graph, metadata)
    library.save(graph, path)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@contextlib.contextmanager
def files_of_at_most(size: int):
    """The system refuses to write beyond that many bytes of a file, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("export", KINDS, indirect=True)
def test_an_export_takes_an_older_one_s_place_or_leaves_it_as_it_is(export, monkeypatch):
    write, directory, format = export
    assert write().compared and not damage(directory)
    (directory / "left over").write_text("of an older version")
    before = contents(directory)
    largest = max(len(content) for content in before.values())
    for limit in (0, largest // 2, largest - 1):
        with (
            files_of_at_most(limit),
            pytest.raises(WeightsError, match=f"cannot write {directory.parent}.*Free some space"),
        ):
            write()
        assert contents(directory) == before and [*directory.parent.iterdir()] == [directory]

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", denied)
        with pytest.raises(WeightsError, match=f"cannot write {directory.parent}.*Permission denied"):
            write()
    assert contents(directory) == before

    with monkeypatch.context() as patch:
        for module in (format, tag):
            patch.setattr(module, "TOLERANCE", -1.0)
        with pytest.raises(WeightsError, match="reads the export differently"):
            write()
    assert contents(directory) == before and [*directory.parent.iterdir()] == [directory]

    assert write().compared
    assert set(contents(directory)) == set(before) - {"left over"} and not damage(directory)


@pytest.mark.parametrize("export", KINDS, indirect=True)
def test_what_another_program_reads_differently_is_never_there(export, monkeypatch):
    write, directory, format = export
    for module in (format, tag):
        monkeypatch.setattr(module, "TOLERANCE", -1.0)
    with pytest.raises(WeightsError, match="reads the export differently"):
        write()
    assert not directory.exists() and (not directory.parent.exists() or not [*directory.parent.iterdir()])


def denied(path, *more, **options):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
