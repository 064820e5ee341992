"""An encoder-decoder of GPT-2's blocks in the layout of transformers' BlenderbotForConditionalGeneration.

Blenderbot (Roller et al. 2020, arXiv:2004.13637) is pre-norm with learned positions and a norm after the last block, as
GPT-2 is. With ``gelu_new`` and an unscaled embedding it computes the same function; only queries, keys and values
are separate matrices.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from finetune.checkpoints.convert import LoadReport, finite
from finetune.checkpoints.own_layout import checked_shape
from finetune.checkpoints.store import (
    LoadedCheckpoint,
    matching_tokenizer,
    read_header,
    read_object,
    read_tensor,
    refuse_damaged,
    write_directory,
)
from finetune.errors import WeightsError, listed
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.tokenizer import Tokenizer

MODEL_TYPE, CLASS = "blenderbot", "BlenderbotForConditionalGeneration"
NORM_EPS = 1e-5  # not in Blenderbot's config
# Their name, our name, and (index, count) of the equal part of our tensor that it is.
BLOCK = [
    *((f"self_attn.{part}_proj", "attention.qkv", at, 3) for at, part in enumerate("qkv")),
    ("self_attn.out_proj", "attention.out", 0, 1),
    ("self_attn_layer_norm", "norm_1", 0, 1),
    ("fc1", "mlp.up", 0, 1),
    ("fc2", "mlp.down", 0, 1),
    ("final_layer_norm", "norm_2", 0, 1),
]
CROSS = [
    ("encoder_attn.q_proj", "cross_attention.q", 0, 1),
    *((f"encoder_attn.{part}_proj", "cross_attention.kv", at, 2) for at, part in enumerate("kv")),
    ("encoder_attn.out_proj", "cross_attention.out", 0, 1),
    ("encoder_attn_layer_norm", "norm_cross", 0, 1),
]
FIXED = {"activation_function": "gelu_new", "scale_embedding": False, "tie_word_embeddings": True}
SIZES = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context",
    "d_model": "width",
    "decoder_layers": "layers",
    "encoder_layers": "encoder_layers",
    "decoder_attention_heads": "heads",
}
BIAS = "final_logits_bias"  # added by transformers when it saves the model again
TIED = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")


def fits(config: EncoderDecoderConfig) -> bool:
    """Whether Blenderbot's class can hold a model of this shape: GPT-2's, without any option beyond it."""
    plain = EncoderDecoderConfig(
        config.vocab_size,
        config.context,
        config.width,
        config.layers,
        config.heads,
        NORM_EPS,
        config.dropout,
        encoder_layers=config.encoder_layers,
        last_norm=config.last_norm if config.last_norm else None,
    )
    return config == plain


def write_blenderbot(
    directory: Path,
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    extra_config: dict[str, Any] | None = None,
    extra_files: dict[str, str] | None = None,
) -> None:
    """Write the checkpoint atomically; an existing directory of that name is replaced at the end."""
    config = blenderbot_config(model.config, tokenizer.end_of_text) | (extra_config or {})
    write_directory(directory, blenderbot_tensors(model), config, tokenizer, extra_files)


def load_blenderbot(directory: Path, dropout: float = 0.0) -> LoadedCheckpoint:
    """Load a checkpoint of GPT-2's blocks: the model (eval mode, fp32), its tokenizer and a report on the tensors."""
    directory = Path(directory)
    refuse_damaged(directory)
    config, path = read_blenderbot_config(directory / "config.json", dropout), directory / "model.safetensors"
    if not path.is_file():
        raise WeightsError(f"{directory}: no model.safetensors here", do="Export the run again.")
    shapes = read_header(path)
    with torch.device("meta"):  # allocate no memory until the config's sizes match the tensors
        check_shapes(EncoderDecoder(config), shapes, str(path))
    tokenizer = matching_tokenizer(directory, config.vocab_size)
    model = EncoderDecoder(config)
    try:
        with torch.no_grad():
            load_parameters(
                model, shapes, lambda name: finite(read_tensor(path, name), name, directory.name), directory.name
            )
    except SafetensorError as error:
        raise WeightsError(f"{path}: the tensors cannot be read", got=str(error)) from error
    report = LoadReport(loaded=len(shapes), dtypes=["float32"])
    report.parameters = sum(parameter.numel() for parameter in model.parameters())
    return LoadedCheckpoint(model.eval(), tokenizer, report)


def read_blenderbot_config(path: Path, dropout: float = 0.0) -> EncoderDecoderConfig:
    """The shape in a ``config.json``. Raises WeightsError for a shape that GPT-2's blocks do not support."""
    shape = checked_shape(shape_of(read_object(path), str(path)), EncoderDecoderConfig, path, dropout)
    assert isinstance(shape, EncoderDecoderConfig), "as asked for"
    return shape


def blenderbot_config(config: EncoderDecoderConfig, end: int) -> dict:
    """The ``config.json``. end: the end-of-text token, with which a target begins and ends."""
    sizes = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
    return {
        "architectures": [CLASS],
        "model_type": MODEL_TYPE,
        **sizes,
        "encoder_layers": config.encoder.layers,
        "encoder_attention_heads": config.heads,
        "encoder_ffn_dim": 4 * config.width,
        "decoder_ffn_dim": 4 * config.width,
        **FIXED,
        "dropout": config.dropout,
        "attention_dropout": config.dropout,
        "is_encoder_decoder": True,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": end,
        "forced_eos_token_id": None,
        "encoder_no_repeat_ngram_size": 0,
        "dtype": "float32",
    }


def shape_of(config: dict, source: str) -> dict:
    """The sizes in a ``config.json`` under our names. Raises WeightsError unless it describes GPT-2's block."""
    wanted = FIXED | {
        "encoder_attention_heads": config.get("decoder_attention_heads"),
        "encoder_ffn_dim": 4 * config["d_model"] if isinstance(config.get("d_model"), int) else None,
        "decoder_ffn_dim": config.get("encoder_ffn_dim"),
    }
    for key, value in wanted.items():
        if config.get(key) != value:
            raise WeightsError(
                f"{source}: {key} differs from that of GPT-2's blocks",
                got=repr(config.get(key))[:80],
                known=repr(value),
            )
    return {ours: config.get(theirs) for theirs, ours in SIZES.items()}


def blenderbot_tensors(model: EncoderDecoder) -> dict[str, Tensor]:
    """The model's tensors with Blenderbot's names, contiguous and on the CPU."""
    ours = dict(model.named_parameters())
    table = names(model.config)
    assert {row[1] for row in table} == ours.keys(), "adapters are merged before a checkpoint is written"
    return {theirs: ours[own].detach().cpu().chunk(of)[at].clone() for theirs, own, at, of in table}


def check_shapes(model: EncoderDecoder, shapes: dict[str, tuple], source: str) -> None:
    """Raise WeightsError for each tensor of a file that is missing, unexpected or of another size."""
    ours = dict(model.named_parameters())
    expected = {theirs: (ours[own].shape[0] // of, *ours[own].shape[1:]) for theirs, own, _, of in names(model.config)}
    problems = [f"missing {name} {size}" for name, size in expected.items() if name not in shapes]
    problems += [f"unexpected {name}" for name in shapes if name not in {*expected, *TIED, BIAS}]
    problems += [
        f"{name} is {shapes[name]}, expected {size}"
        for name, size in expected.items()
        if name in shapes and shapes[name] != size
    ]
    if problems:
        raise WeightsError(
            f"{source}: {len(problems)} tensors do not fit an encoder-decoder of GPT-2's blocks",
            got=listed(problems, separator="; "),
        )


def load_parameters(
    model: EncoderDecoder, shapes: dict[str, tuple], read: Callable[[str], Tensor], source: str
) -> None:
    """Copy a file's tensors, whose shapes are checked, into the model. read: returns one tensor by name.

    Raises WeightsError for a separate output matrix or an output bias.
    """
    ours = dict(model.named_parameters())
    for theirs, own, at, of in names(model.config):
        ours[own].chunk(of)[at].copy_(read(theirs))
    if BIAS in shapes and read(BIAS).any():
        raise WeightsError(f"{source}: {BIAS} is not zero", known="a model without an output bias")
    untied = [name for name in TIED if name in shapes and not torch.equal(read(name), model.token_embedding.weight)]
    if untied:
        raise WeightsError(f"{source}: {untied[0]} differs from model.shared.weight", known="one matrix for all three")


def names(config: EncoderDecoderConfig) -> list[tuple[str, str, int, int]]:
    """Blenderbot's name of each tensor, our name, and (index, count) of the equal part of our tensor that it is."""
    rows = [("model.shared.weight", "token_embedding.weight", 0, 1)]
    for side, layers, parts in (("encoder", config.encoder.layers, BLOCK), ("decoder", config.layers, BLOCK + CROSS)):
        rows.append((f"model.{side}.embed_positions.weight", f"{side}.position_embedding.weight", 0, 1))
        for kind in ("weight", "bias"):
            rows.append((f"model.{side}.layer_norm.{kind}", f"{side}.norm.{kind}", 0, 1))
            rows += [
                (f"model.{side}.layers.{block}.{theirs}.{kind}", f"{side}.blocks.{block}.{ours}.{kind}", at, of)
                for block in range(layers)
                for theirs, ours, at, of in parts
            ]
    return rows
