"""Checkpoints of models without a public class, in a layout of our own.

Encoders and encoder-decoders on GPT-2's blocks, and decoders with options beyond GPT-2 and LLaMA: ``config.json``
(model_type ``finetune-decoder``, ``-encoder`` or ``-encoder-decoder``, and the shape), ``model.safetensors`` under our
own names, with a classifier's head as ``score.weight``, and the tokenizer's files. Files are untrusted, as in store.py.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor

from finetune.checkpoints.convert import LoadReport, finite
from finetune.checkpoints.gpt2_keys import CLASSIFIER_HEAD
from finetune.checkpoints.store import (
    SIZE_LIMITS,
    LoadedCheckpoint,
    exact_header,
    matching_tokenizer,
    read_header,
    read_object,
    read_tensor,
    refuse_damaged,
    write_directory,
)
from finetune.errors import WeightsError
from finetune.models.encoder import Encoder
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.heads import Classifier
from finetune.models.transformer import Transformer, TransformerConfig
from finetune.tokenizer import Tokenizer

Own = Transformer | Encoder | EncoderDecoder
KINDS: dict[str, tuple[Callable[[Any], Own], type[TransformerConfig]]] = {
    "finetune-decoder": (Transformer, TransformerConfig),
    "finetune-encoder": (Encoder, TransformerConfig),
    "finetune-encoder-decoder": (EncoderDecoder, EncoderDecoderConfig),
}
SIZES = {
    "vocab_size": SIZE_LIMITS["vocab_size"],
    "context": SIZE_LIMITS["n_positions"],
    "width": SIZE_LIMITS["n_embd"],
    "layers": SIZE_LIMITS["n_layer"],
    "encoder_layers": SIZE_LIMITS["n_layer"],
    "heads": SIZE_LIMITS["n_head"],
    "kv_heads": SIZE_LIMITS["n_head"],
    "window": 1 << 31,
}


def write_own(
    directory: Path,
    model: Own | Classifier,
    tokenizer: Tokenizer,
    extra_config: dict[str, Any] | None = None,
    extra_files: dict[str, str] | None = None,
    head: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the checkpoint atomically; an existing directory of that name is replaced at the end.

    head: the tensors of a task's own head by name, written beside the model's.
    """
    body = model.body if isinstance(model, Classifier) else model
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in body.named_parameters()}
    tensors |= head or {}
    if isinstance(model, Classifier):
        tensors[CLASSIFIER_HEAD] = model.head.weight.detach().cpu().contiguous()
    kind = next(name for name, (build, _) in KINDS.items() if build is type(body))
    config = {"model_type": kind, **asdict(body.config), **(extra_config or {})}
    write_directory(directory, tensors, config, tokenizer, extra_files)


def load_own(directory: Path, dropout: float = 0.0, head: Collection[str] = ()) -> LoadedCheckpoint:
    """Load the checkpoint: the model (eval mode, fp32), its tokenizer and a report on the tensors.

    head: names of the tensors of a task's own head, which the caller reads.
    """
    directory = Path(directory)
    refuse_damaged(directory)
    build, config = read_own_config(directory / "config.json", dropout)
    with torch.device("meta"):  # allocate no memory until the config's sizes match the tensors
        sizes = {name: tuple(parameter.shape) for name, parameter in build(config).named_parameters()}

    def expected(shapes: dict[str, tuple]) -> dict[str, tuple]:
        classifier = shapes.get(CLASSIFIER_HEAD) if build is not EncoderDecoder else None
        known = sizes | {name: shapes[name] for name in head if name in shapes}
        return known | ({CLASSIFIER_HEAD: (classifier[0], config.width)} if classifier else {})

    path = exact_header(directory, expected)
    tokenizer = matching_tokenizer(directory, config.vocab_size)
    body, report = build(config), LoadReport(dtypes=["float32"])
    model: Own | Classifier = body
    try:
        with torch.no_grad():
            for name, parameter in body.named_parameters():
                parameter.copy_(finite(read_tensor(path, name), name, directory.name))
            if CLASSIFIER_HEAD in read_header(path) and not isinstance(body, EncoderDecoder):
                linear = finite(read_tensor(path, CLASSIFIER_HEAD), CLASSIFIER_HEAD, directory.name)
                model = classifier = Classifier(body, len(linear))
                classifier.head.weight.copy_(linear)
    except SafetensorError as error:
        raise WeightsError(f"{path}: the tensors cannot be read", got=str(error)) from error
    report.loaded = len(list(model.parameters()))
    report.parameters = sum(parameter.numel() for parameter in model.parameters())
    return LoadedCheckpoint(model.eval(), tokenizer, report)


def read_own_config(path: Path, dropout: float = 0.0) -> tuple[Callable[[Any], Own], TransformerConfig]:
    """The model's class and its shape. Only known keys are read."""
    config = read_object(path)
    build, schema = KINDS[config["model_type"]]
    return build, checked_shape(config, schema, path, dropout)


def checked_shape(
    config: dict[str, Any], schema: type[TransformerConfig], path: Path, dropout: float
) -> TransformerConfig:
    """The shape in a file's config. Raises WeightsError for a value of another type or out of range."""
    values: dict[str, Any] = {"dropout": dropout}
    for field in fields(schema):
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
            fits, said = isinstance(value, bool) or (value is None and type(None) in known), "true or false"
        if not fits:
            raise WeightsError(f"{path}: {field.name} is out of range", got=json.dumps(value)[:80], known=said)
        values[field.name] = value
    return schema(**values)
