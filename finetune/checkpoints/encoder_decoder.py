"""Encoder-decoder checkpoints: in Blenderbot's layout where that holds the shape, else in a layout of our own.

Our own has ``config.json`` (model_type ``finetune-encoder-decoder`` and the shape), ``model.safetensors`` under our own
names, and the tokenizer's files. Files are untrusted, as in store.py.
"""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError, safe_open

from finetune.checkpoints import blenderbot
from finetune.checkpoints.convert import LoadReport, finite
from finetune.checkpoints.store import (
    SIZE_LIMITS,
    LoadedCheckpoint,
    read_header,
    read_object,
    refuse_damaged,
    write_directory,
)
from finetune.errors import WeightsError
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.tokenizer import Tokenizer

MODEL_TYPE = "finetune-encoder-decoder"
SIZES = {
    "vocab_size": SIZE_LIMITS["vocab_size"],
    "context": SIZE_LIMITS["n_positions"],
    "width": SIZE_LIMITS["n_embd"],
    "layers": SIZE_LIMITS["n_layer"],
    "encoder_layers": SIZE_LIMITS["n_layer"],
    "heads": SIZE_LIMITS["n_head"],
    "kv_heads": SIZE_LIMITS["n_head"],
}


def is_encoder_decoder(directory: Path) -> bool:
    """Whether a directory's config.json declares an encoder-decoder."""
    path = Path(directory) / "config.json"
    return path.is_file() and read_object(path).get("model_type") in (MODEL_TYPE, blenderbot.MODEL_TYPE)


def write_encoder_decoder(
    directory: Path, model: EncoderDecoder, tokenizer: Tokenizer, extra_files: dict[str, str] | None = None
) -> None:
    """Write the checkpoint atomically; an existing directory of that name is replaced at the end."""
    if blenderbot.fits(model.config):
        tensors = blenderbot.blenderbot_tensors(model)
        config = blenderbot.blenderbot_config(model.config, tokenizer.end_of_text)
    else:
        tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}
        config = {"model_type": MODEL_TYPE, **asdict(model.config)}
    write_directory(directory, tensors, config, tokenizer, extra_files)


def load_encoder_decoder(directory: Path, dropout: float = 0.0) -> LoadedCheckpoint:
    """Load the checkpoint: the model (eval mode, fp32), its tokenizer and a report on the tensors."""
    directory = Path(directory)
    refuse_damaged(directory)
    config, path = _read_shape(directory / "config.json", dropout), directory / "model.safetensors"
    if not path.is_file():
        raise WeightsError(f"{directory}: no model.safetensors here", do="Export the run again.")
    shapes, theirs = read_header(path), read_object(directory / "config.json")["model_type"] == blenderbot.MODEL_TYPE
    with torch.device("meta"):  # allocate no memory until the config's sizes match the tensors
        empty = EncoderDecoder(config)
    expected = {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}
    if theirs:
        blenderbot.check_shapes(empty, shapes, str(path))
    elif shapes != expected:
        odd = sorted({*shapes.items()} ^ {*expected.items()})
        raise WeightsError(
            f"{path}: {len(odd)} tensors do not fit its config.json",
            got=", ".join(f"{name} {shape}" for name, shape in odd[:4]),
        )
    tokenizer = Tokenizer.from_directory(directory)
    if tokenizer.vocab_size != config.vocab_size:
        raise WeightsError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens",
            known=f"the model has {config.vocab_size}",
            do="Use the checkpoint's own tokenizer files.",
        )
    model, report = EncoderDecoder(config), LoadReport()
    try:
        with safe_open(path, framework="pt") as file, torch.no_grad():

            def read(name: str) -> torch.Tensor:
                return finite(file.get_tensor(name), name, directory.name)

            if theirs:
                blenderbot.load_parameters(model, shapes, read, directory.name)
            else:
                for name, parameter in model.named_parameters():
                    parameter.copy_(read(name))
    except SafetensorError as error:
        raise WeightsError(f"{path}: the tensors cannot be read", got=str(error)) from error
    report.loaded, report.dtypes = len(shapes), ["float32"]
    report.parameters = sum(parameter.numel() for parameter in model.parameters())
    return LoadedCheckpoint(model.eval(), tokenizer, report)


def _read_shape(path: Path, dropout: float) -> EncoderDecoderConfig:
    """Read known keys only, checking the type and range of each."""
    config, values = read_object(path), {}
    if config.get("model_type") == blenderbot.MODEL_TYPE:
        config = blenderbot.shape_of(config, str(path))
    for field in fields(EncoderDecoderConfig):
        if field.name not in config or field.name == "dropout":
            continue
        value, known = config[field.name], get_args(field.type)
        if field.name in SIZES:
            whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= SIZES[field.name]
            fits, said = whole or (value is None and type(None) in known), f"1 to {SIZES[field.name]:,}"
        elif field.name == "norm_eps":
            fits, said = isinstance(value, float) and 0 < value < 1, "between 0 and 1"
        elif isinstance(field.default, str):
            fits, said = value in known, ", ".join(map(str, known))
        else:
            fits, said = value is None or isinstance(value, bool), "true or false"
        if not fits:
            raise WeightsError(f"{path}: {field.name} is out of range", got=json.dumps(value)[:80], known=said)
        values[field.name] = value
    return EncoderDecoderConfig(**values, dropout=dropout)
