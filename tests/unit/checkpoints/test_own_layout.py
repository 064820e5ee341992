"""An encoder-decoder's checkpoint: read back bit for bit, and nothing in it is trusted."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.checkpoints.own_layout import load_own, write_own
from finetune.checkpoints.sources import load
from finetune.errors import WeightsError
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.tokenizer import Tokenizer

BYTES = Tokenizer.of_bytes()
SHAPE = {"vocab_size": BYTES.vocab_size, "context": 16, "width": 16, "layers": 2, "heads": 2}


@pytest.fixture
def written(tmp_path):
    model = EncoderDecoder(EncoderDecoderConfig(**SHAPE, encoder_layers=1, positions="rotary")).initialise(0).eval()
    write_own(tmp_path / "model", model, BYTES, extra_files={"seq2seq.json": "{}"})
    return tmp_path / "model", model


def test_what_is_written_is_read_back(written):
    directory, model = written
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "model.safetensors",
        "vocab.json",
        "merges.txt",
        "seq2seq.json",
    }
    again, tokenizer = load(str(directory))
    assert again.config == model.config and not again.training and tokenizer.vocab_size == BYTES.vocab_size
    ids = torch.randint(0, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again(ids, ids), model(ids, ids))
    assert load_own(directory, dropout=0.25).model.config.dropout == 0.25


@pytest.mark.parametrize(
    "key, value",
    [
        ("layers", 10**9),
        ("layers", -1),
        ("layers", 3),
        ("heads", 3),
        ("width", "16"),
        ("norm_eps", 2.0),
        ("norm_eps", None),
        ("positions", "none"),
        ("tied", False),
        ("biases", 1),
        ("vocab_size", 300),
        ("context", True),
        ("encoder_layers", 2),
        ("kv_heads", 1),
    ],
)
def test_a_config_that_is_another_models_is_refused(written, key, value):
    directory, _ = written
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(WeightsError):
        load(str(directory))


def test_tensors_that_are_not_the_models_are_refused(written):
    directory, _ = written
    tensors = load_file(directory / "model.safetensors")
    name = "decoder.blocks.0.cross_attention.out.weight"
    for change in (
        {name: torch.full_like(tensors[name], torch.nan)},
        {name: tensors[name][:8].contiguous()},
        {"more": torch.zeros(2)},
    ):
        save_file(tensors | change, directory / "model.safetensors")
        with pytest.raises(WeightsError):
            load(str(directory))
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, directory / "model.safetensors")
    with pytest.raises(WeightsError, match=name):
        load(str(directory))
