"""The adapter's directory: its files and settings, and what is refused."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file

from finetune.adapters.lora import add_lora, lora_tensors
from finetune.checkpoints.sources import WeightsSource
from finetune.checkpoints.store import write_checkpoint
from finetune.errors import RunError, WeightsError
from finetune.export import peft
from finetune.export.exportable import Exportable
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier, LossModule
from finetune.tasks.classify.job import build_model
from finetune.tokenizer import Tokenizer

TOKENIZER, LABELS = Tokenizer.of_bytes(), ["[/x]", 'a"b', "spam"]
TEXTS = ["hello", "free cash <|endoftext|>", "é" * 40, "x"]


def small_gpt():
    gpt = GPT(GPTConfig(TOKENIZER.vocab_size, 32, 16, 2, 2)).initialise(0, std=0.2)
    return gpt.half().float()  # values that the base's file holds


def adapted(model, targets=("attention.qkv", "blocks.1.mlp.*")):
    """The model with adapters that have learnt something."""
    add_lora(model.body, 2, 5.0, 0.1, targets, seed=1)
    generator = torch.Generator().manual_seed(2)
    for tensor in lora_tensors(model.body).values():
        tensor.data.normal_(0.0, 0.2, generator=generator)
    return model.eval()


@pytest.fixture
def model():
    return adapted(build_model(small_gpt(), len(LABELS), seed=0))


@pytest.fixture
def base(tmp_path):
    write_checkpoint(tmp_path / "base", small_gpt(), TOKENIZER, dtype=torch.float16)  # as mini is
    return WeightsSource("tiny", tmp_path / "base", None, "here")


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "export" / "peft"


def thing(model) -> Exportable:
    """What a task hands over."""
    labels = LABELS if isinstance(model, Classifier) else []
    return Exportable("run", model, TOKENIZER, str, labels=labels, texts=TEXTS, max_length=20)


def test_the_directory_is_peft_s_own(directory, model, base):
    checked = peft.write(thing(model), directory, base)
    assert checked.compared and checked.max_logit_difference < 1e-4
    directory = directory
    assert {path.name for path in directory.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "MANIFEST.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
        "README.md",
    }
    config = json.loads((directory / "adapter_config.json").read_text())
    layers = ["h.0.attn.c_attn", "h.1.attn.c_attn", "h.1.mlp.c_fc", "h.1.mlp.c_proj"]
    assert config == {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base.directory.as_posix(),
        "revision": None,
        "r": 2,
        "lora_alpha": 5.0,
        "lora_dropout": 0.1,
        "target_modules": layers,
        "modules_to_save": ["score"],
        "fan_in_fan_out": True,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(directory / "adapter_model.safetensors").items()}
    sizes = {"attn.c_attn": (16, 48), "mlp.c_fc": (16, 64), "mlp.c_proj": (64, 16)}
    expected = {"base_model.model.score.weight": (3, 16)}
    for layer in layers:
        wide, out = sizes[layer.partition(".")[2].partition(".")[2]]
        expected |= {
            f"base_model.model.transformer.{layer}.lora_A.weight": (2, wide),
            f"base_model.model.transformer.{layer}.lora_B.weight": (out, 2),
        }
    assert shapes == expected
    readme = (directory / "README.md").read_text(encoding="utf-8")
    for words in ("peft gives the same logits", "num_labels=3, pad_token_id=256", "{0: '[/x]', 1: 'a\"b', 2: 'spam'}"):
        assert words in readme
    compile("\n".join(line[4:] for line in readme.splitlines() if line.startswith("    ")), "README", "exec")


def test_what_its_readme_says_gives_the_models_logits(directory, model, base, monkeypatch):
    peft.write(thing(model), directory, base)
    lines = [line[4:] for line in directory.joinpath("README.md").read_text().splitlines() if line.startswith("    ")]
    code = "\n".join(lines)
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code.replace('"DIRECTORY"', repr(str(directory))), names)
    ids = [TOKENIZER.encode(text)[:20] for text in TEXTS]
    with torch.no_grad():
        for row in ids:
            ours = model(torch.tensor([row]), torch.tensor([len(row) - 1]))
            assert names["tokenizer"](TOKENIZER.decode(row), truncation=True)["input_ids"] == row
            torch.testing.assert_close(names["model"](torch.tensor([row])).logits, ours, atol=2e-5, rtol=0)


def test_a_language_models_adapter_has_no_head(directory, base):
    checked = peft.write(thing(adapted(LossModule(small_gpt()), ("*",)).body), directory, base)
    assert checked.compared and checked.max_logit_difference < 1e-4
    config = json.loads(directory.joinpath("adapter_config.json").read_text())
    assert config["task_type"] == "CAUSAL_LM" and config["modules_to_save"] is None
    assert len(load_file(directory.joinpath("adapter_model.safetensors"))) == 16


def test_weights_of_the_registry_are_named_with_their_revision(model, base):
    from finetune.hub.registry import weights_registry

    row = weights_registry()["gpt2"]
    named = peft.adapter_config(model, WeightsSource("gpt2", base.directory, None, "", pinned=True))
    assert (named["base_model_name_or_path"], named["revision"]) == (row.repo, row.revision)
    users = peft.adapter_config(model, WeightsSource("gpt2", base.directory, None, ""))  # a directory of that name
    assert (users["base_model_name_or_path"], users["revision"]) == (base.directory.as_posix(), None)


def test_a_model_without_adapters_is_refused(directory, base):
    with pytest.raises(RunError, match="has no adapters; known: a run with method lora"):
        peft.write(thing(build_model(small_gpt(), 3, seed=0)), directory, base)
    assert not directory.parent.exists()


@pytest.mark.parametrize("kind", ["scale", "missing", "head", "flipped"])
def test_an_adapter_that_reads_differently_is_never_there(directory, model, base, monkeypatch, kind):
    peft.write(thing(model), directory, base)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    config, tensors = peft.adapter_config(model, base), peft.adapter_tensors(model)
    if kind == "scale":
        config["lora_alpha"] *= config["r"]
    elif kind == "missing":
        del tensors["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"]
    elif kind == "head":
        tensors["base_model.model.score.weight"] = -tensors["base_model.model.score.weight"]
    else:
        name = "base_model.model.transformer.h.1.mlp.c_fc.lora_A.weight"
        tensors[name] = tensors[name].flip(1).contiguous()
    monkeypatch.setattr(peft, "adapter_config", lambda *_: config)
    monkeypatch.setattr(peft, "adapter_tensors", lambda *_: tensors)
    with warnings.catch_warnings(), pytest.raises(WeightsError, match="peft reads the export differently"):
        warnings.simplefilter("ignore")
        peft.write(thing(model), directory, base)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert [path.name for path in directory.parent.iterdir()] == ["peft"]


def test_without_peft_the_plain_reader_compares_and_says_so(directory, model, base, monkeypatch):
    monkeypatch.setattr(peft, "has_peft", lambda: False)
    for own in (model, adapted(LossModule(small_gpt()), ("*",)).body):
        checked = peft.write(thing(own), directory, base)
        assert checked.compared and 0 < checked.max_logit_difference < 1e-4
        assert checked.summary.startswith("a reader in plain numpy gives the same logits")
        assert checked.summary.endswith("; peft is not installed")


def test_the_plain_reader_sees_another_scale(directory, model, base, monkeypatch):
    monkeypatch.setattr(peft, "has_peft", lambda: False)
    config = peft.adapter_config(model, base) | {"lora_alpha": 50.0}
    monkeypatch.setattr(peft, "adapter_config", lambda *_: config)
    with pytest.raises(WeightsError, match="a reader in plain numpy reads the export differently"):
        peft.write(thing(model), directory, base)
