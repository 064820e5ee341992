"""Transformer checkpoints of the LLaMA shape in Hugging Face's layout: ``LlamaForCausalLM`` and its classifier.

Hugging Face stores queries, keys and values separately; ours are one matrix. Only checkpoints written here are read:
LLaMA's public weights have another tokenizer. Files are untrusted, as in store.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

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
    tokenizer_files,
    write_directory,
)
from finetune.errors import WeightsError
from finetune.models.heads import Classifier
from finetune.models.transformer import BASE, LLAMA, Transformer, TransformerConfig
from finetune.tokenizer import Tokenizer

MODEL_TYPE = "llama"
# Hugging Face's tensors, concatenated along the rows in ours; {} is the block number.
TABLE = [
    (("model.embed_tokens.weight",), "token_embedding.weight"),
    (("model.layers.{}.input_layernorm.weight",), "blocks.{}.norm_1.weight"),
    (tuple(f"model.layers.{{}}.self_attn.{part}_proj.weight" for part in "qkv"), "blocks.{}.attention.qkv.weight"),
    (("model.layers.{}.self_attn.o_proj.weight",), "blocks.{}.attention.out.weight"),
    (("model.layers.{}.post_attention_layernorm.weight",), "blocks.{}.norm_2.weight"),
    (("model.layers.{}.mlp.gate_proj.weight",), "blocks.{}.mlp.gate.weight"),
    (("model.layers.{}.mlp.up_proj.weight",), "blocks.{}.mlp.up.weight"),
    (("model.layers.{}.mlp.down_proj.weight",), "blocks.{}.mlp.down.weight"),
    (("model.norm.weight",), "norm.weight"),
    (("lm_head.weight",), "head.weight"),
]
SIZES = {
    "vocab_size": ("vocab_size", SIZE_LIMITS["vocab_size"]),
    "max_position_embeddings": ("context", SIZE_LIMITS["n_positions"]),
    "hidden_size": ("width", SIZE_LIMITS["n_embd"]),
    "num_hidden_layers": ("layers", SIZE_LIMITS["n_layer"]),
    "num_attention_heads": ("heads", SIZE_LIMITS["n_head"]),
    "num_key_value_heads": ("kv_heads", SIZE_LIMITS["n_head"]),
}
# The settings that our blocks implement; any other value in a config is an error.
FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_theta": BASE, "rope_scaling": None}


def write_llama(
    directory: Path,
    model: Transformer | Classifier,
    tokenizer: Tokenizer,
    extra_config: dict[str, Any] | None = None,
    extra_files: dict[str, str] | None = None,
) -> None:
    """Write the checkpoint atomically; an existing directory of that name is replaced at the end."""
    body = transformer_of(model)
    tensors = llama_tensors(body)
    if isinstance(model, Classifier):
        tensors[CLASSIFIER_HEAD] = model.head.weight.detach().cpu().contiguous()
    config = llama_config(model, tokenizer) | (extra_config or {})
    write_directory(directory, tensors, config, tokenizer, tokenizer_files(body.config) | (extra_files or {}))


def load_llama(directory: Path, dropout: float = 0.0) -> LoadedCheckpoint:
    """Load a checkpoint from ``write_llama``: the model (eval mode, fp32), its tokenizer and a report on the tensors."""
    directory = Path(directory)
    refuse_damaged(directory)
    config = read_llama_config(directory / "config.json", dropout)
    with torch.device("meta"):  # allocate no memory until the config's sizes match the tensors
        sizes = {name: tuple(tensor.shape) for name, tensor in llama_tensors(Transformer(config), store=False).items()}

    def expected(shapes: dict[str, tuple]) -> dict[str, tuple]:
        head = shapes.get(CLASSIFIER_HEAD)
        return sizes | ({CLASSIFIER_HEAD: (head[0], config.width)} if head else {})

    path = exact_header(directory, expected)
    tokenizer = matching_tokenizer(directory, config.vocab_size)
    body = Transformer(config)
    model: Transformer | Classifier = body
    try:
        with torch.no_grad():
            ours = dict(body.named_parameters())
            for theirs, name in rows(config):
                ours[name].copy_(torch.cat([finite(read_tensor(path, part), part, directory.name) for part in theirs]))
            if CLASSIFIER_HEAD in read_header(path):
                head = finite(read_tensor(path, CLASSIFIER_HEAD), CLASSIFIER_HEAD, directory.name)
                model = classifier = Classifier(body, len(head))
                classifier.head.weight.copy_(head)
    except SafetensorError as error:
        raise WeightsError(f"{path}: the tensors cannot be read", got=str(error)) from error
    report = LoadReport(loaded=len(list(model.parameters())), dtypes=["float32"])
    report.parameters = sum(parameter.numel() for parameter in model.parameters())
    return LoadedCheckpoint(model.eval(), tokenizer, report)


def rows(config: TransformerConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """The table with one row per tensor of our model."""
    for theirs, ours in TABLE:
        if ours == "head.weight" and config.tied:
            continue
        for number in range(config.layers) if "{}" in ours else [0]:
            yield tuple(name.format(number) for name in theirs), ours.format(number)


def llama_tensors(model: Transformer, store: bool = True) -> dict[str, Tensor]:
    """The model's tensors under Hugging Face's names; store: contiguous and on the CPU."""
    config, parameters = model.config, dict(model.named_parameters())
    found: dict[str, Tensor] = {}
    for theirs, ours in rows(config):
        tensor = parameters.pop(ours).detach()
        kv_width = (config.kv_heads or config.heads) * config.head_width
        parts = tensor.split([config.width, kv_width, kv_width]) if len(theirs) > 1 else [tensor]
        found |= dict(zip(theirs, parts, strict=True))
    assert not parameters, "adapters are merged before a checkpoint is written"
    return {name: tensor.cpu().contiguous().clone() for name, tensor in found.items()} if store else found


def llama_config(model: Transformer | Classifier, tokenizer: Tokenizer) -> dict[str, Any]:
    """The ``config.json`` that transformers needs."""
    config, end = transformer_of(model).config, tokenizer.end_of_text
    kind = "LlamaForSequenceClassification" if isinstance(model, Classifier) else "LlamaForCausalLM"
    return {
        "architectures": [kind],
        "model_type": MODEL_TYPE,
        **{theirs: getattr(config, ours) for theirs, (ours, _) in SIZES.items()},
        "num_key_value_heads": config.kv_heads or config.heads,
        "intermediate_size": config.mlp_width,
        "head_dim": config.head_width,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        **FIXED,
        "attention_dropout": config.dropout,
        "dtype": "float32",
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }


def read_llama_config(path: Path, dropout: float = 0.0) -> TransformerConfig:
    """The shape in a LLaMA's ``config.json``. Raises WeightsError for a config that our blocks do not implement."""
    config, values = read_object(path), dict[str, Any]()
    for theirs, (ours, most) in SIZES.items():
        value = config.get(theirs)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise WeightsError(f"{path}: {theirs} is out of range", got=repr(value), known=f"1 to {most:,}")
        values[ours] = value
    epsilon, tied = config.get("rms_norm_eps"), config.get("tie_word_embeddings", False)
    if not (isinstance(epsilon, float) and 0 < epsilon < 1):
        raise WeightsError(f"{path}: rms_norm_eps is out of range", got=repr(epsilon), known="between 0 and 1")
    if not isinstance(tied, bool):
        raise WeightsError(f"{path}: tie_word_embeddings is out of range", got=repr(tied), known="true or false")
    shape = TransformerConfig(**values | LLAMA | {"tied": tied, "norm_eps": epsilon, "dropout": dropout})
    wanted = FIXED | {"intermediate_size": shape.mlp_width, "head_dim": shape.head_width}
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise WeightsError(
                f"{path}: {key} differs from that of a LLaMA trained here",
                got=repr(config[key])[:80],
                known=repr(value),
            )
    return shape


def transformer_of(model: nn.Module) -> Transformer:
    """The model, without a classifier's head."""
    body = model.body if isinstance(model, Classifier) else model
    assert isinstance(body, Transformer) and body.config.is_llama(), "other shapes have a layout of their own"
    return body
