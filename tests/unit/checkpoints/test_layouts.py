"""Each model in its layout: read back bit for bit, in transformers where it has a class, and nothing in it trusted."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.checkpoints.layouts import load_directory, read_shape, write_model
from finetune.checkpoints.scratch import new_model, shape_config
from finetune.errors import RecipeError, WeightsError
from finetune.files import write_manifest
from finetune.models.encoder import Encoder
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier
from finetune.models.transformer import Transformer
from finetune.recipe import Shape
from finetune.tokenizer import Tokenizer

BYTES = Tokenizer.of_bytes()
SIZES = {"layers": 2, "width": 32, "heads": 4, "context": 24}
MODELS = {
    "gpt2": ({}, "decoder", GPT),
    "llama": ({"preset": "llama", "kv_heads": 2}, "decoder", Transformer),
    "llama, tied": ({"preset": "llama", "tied": True}, "decoder", Transformer),
    "rotary": ({"positions": "rotary"}, "decoder", Transformer),
    "alibi": ({"positions": "alibi", "norm": "post", "activation": "relu"}, "decoder", Transformer),
    "local": ({"preset": "llama", "attention": "local", "window": 4}, "decoder", Transformer),
    "shared": ({"shared_blocks": True, "tied": False}, "decoder", Transformer),
    "encoder": ({}, "encoder", Encoder),
    "shared encoder": ({"shared_blocks": True, "positions": "sinusoidal"}, "encoder", Encoder),
    "both": ({"norm": "rms"}, "encoder-decoder", EncoderDecoder),
}
IDS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(1))
LAST = torch.tensor([19, 6])


def built(name):
    options, architecture, kind = MODELS[name]
    config = shape_config(Shape(**SIZES, **options), architecture, BYTES.vocab_size)
    model = new_model(config, architecture, seed=1)
    assert type(model) is kind
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.normal_(float("norm" in key and "weight" in key), 0.2, generator=generator)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_read_back(name, tmp_path):
    model = built(name)
    write_model(tmp_path / "model", model, BYTES)
    again = load_directory(tmp_path / "model", dropout=0.25)
    inputs = (IDS, IDS) if isinstance(model, EncoderDecoder) else (IDS,)
    assert torch.equal(again.model(*inputs), model(*inputs)) and again.model.config.dropout == 0.25
    assert read_shape(tmp_path / "model")[0] is type(model)
    assert again.report.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["llama", "rotary", "encoder", "both"])
def test_a_file_that_differs_from_the_manifest_is_refused(name, tmp_path):
    write_model(tmp_path / "model", built(name), BYTES)
    write_manifest(tmp_path / "model")
    load_directory(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(WeightsError, match="damaged or was edited"):
        load_directory(tmp_path / "model")


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in MODELS if name != "both"])
def test_a_classifier_on_it_is_read_back(name, tmp_path):
    body = built(name)
    if isinstance(body, Transformer):
        body.drop_output()
    model = Classifier(body, 3).initialise_head(1).eval()
    write_model(tmp_path / "model", model, BYTES, {"num_labels": 3})
    again = load_directory(tmp_path / "model").model
    assert torch.equal(again(IDS, LAST), model(IDS, LAST)) and again(IDS, LAST).shape == (2, 3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "llama, tied"])
def test_the_llama_shape_is_transformers_llama(name, tmp_path):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    model = built(name)
    write_model(tmp_path / "model", model, BYTES)
    theirs, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert type(theirs).__name__ == "LlamaForCausalLM" and not any(loading.values())
    torch.testing.assert_close(theirs(IDS).logits, model(IDS), atol=2e-5, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("ferry")["input_ids"] == BYTES.encode("ferry")

    classifier = Classifier(model.drop_output(), 3).initialise_head(1).eval()
    write_model(tmp_path / "classifier", classifier, BYTES, {"num_labels": 3})
    theirs, loading = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "classifier", output_loading_info=True
    )
    assert not any(loading.values())
    padded = IDS.masked_fill(torch.arange(20) > LAST[:, None], BYTES.end_of_text)
    torch.testing.assert_close(theirs(padded).logits, classifier(padded, LAST), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "key, value",
    [
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("rope_theta", 500000.0),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        ("intermediate_size", 11008),
        ("head_dim", 16),
        ("num_key_value_heads", 3),
        ("num_hidden_layers", 10**9),
        ("hidden_size", "32"),
        ("rms_norm_eps", 0),
        ("tie_word_embeddings", 1),
        ("vocab_size", 300),
    ],
)
def test_a_llama_that_our_blocks_do_not_compute_is_refused(key, value, tmp_path):
    write_model(tmp_path / "model", built("llama"), BYTES)
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(WeightsError):
        load_directory(tmp_path / "model")


@pytest.mark.parametrize("name", ["llama", "encoder"])
def test_tensors_that_are_not_the_models_are_refused(name, tmp_path):
    write_model(tmp_path / "model", built(name), BYTES)
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    key = next(iter(tensors))
    for change in (
        {key: torch.full_like(tensors[key], torch.nan)},
        {key: tensors[key][:1].contiguous()},
        {"more": torch.zeros(2)},
        {"score.weight": torch.zeros(3, 5)},
        {"score.weight": torch.zeros(3)},
    ):
        save_file(tensors | change, path)
        with pytest.raises(WeightsError):
            load_directory(tmp_path / "model")


def test_an_encoder_decoders_sides_are_drawn_on_their_own():
    model = new_model(shape_config(Shape(**SIZES), "encoder-decoder", 50), "encoder-decoder", seed=1)
    drawn = [tensor.flatten()[:8] for tensor in model.parameters() if tensor.dim() == 2]
    assert len({tuple(values.tolist()) for values in drawn}) == len(drawn)


def test_the_vanilla_preset_is_the_papers():
    config = shape_config(Shape(preset="vanilla"), "encoder-decoder", 5000)
    with torch.device("meta"):
        model = new_model(config, "encoder-decoder", 0)
    assert (config.width, config.heads, config.layers, model.config.encoder.layers) == (512, 8, 6, 6)
    # One matrix serves as embedding and as output: an output of its own with a bias would bring it to 49,265,544.
    assert sum(p.numel() for p in model.parameters()) == 49_265_544 - 5000 * 512 - 5000
    with pytest.raises(RecipeError, match="vanilla is an encoder-decoder; known: the task seq2seq"):
        shape_config(Shape(preset="vanilla"), "decoder", 5000)


def test_a_setting_stands_over_the_presets():
    config = shape_config(Shape(preset="llama", tied=True, norm="pre", layers=3), "decoder", 300)
    assert (config.tied, config.norm, config.layers, config.positions, config.width) == (True, "pre", 3, "rotary", 256)
