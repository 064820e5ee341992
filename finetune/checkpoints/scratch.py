"""The models of ``weights = "scratch"``: a recipe's ``shape`` as a configuration, and random weights for it."""

from dataclasses import asdict, fields
from typing import Any, Literal

from finetune.errors import RecipeError
from finetune.models.bodies import Body
from finetune.models.encoder import Encoder, require_tied
from finetune.models.encoder_decoder import VANILLA, EncoderDecoder, EncoderDecoderConfig
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.transformer import LLAMA, Transformer, TransformerConfig
from finetune.recipe import Shape

Architecture = Literal["decoder", "encoder", "encoder-decoder"]
SMALL = {"layers": 6, "width": 256, "heads": 4, "context": 256}
VANILLA_VOCABULARY = VANILLA.vocab_size
PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": SMALL,
    "llama": SMALL | LLAMA,
    "vanilla": {
        field.name: getattr(VANILLA, field.name)
        for field in fields(TransformerConfig)
        if field.name not in ("vocab_size", "dropout")  # set by the tokenizer and train.dropout
    },
}


def shape_config(shape: Shape, architecture: Architecture, vocab_size: int) -> TransformerConfig:
    """The configuration of a recipe's shape. Raises WeightsError or RecipeError for an impossible one."""
    given = {
        "layers": shape.layers,
        "width": shape.width,
        "heads": shape.heads,
        "context": shape.context,
        "positions": shape.positions,
        "kv_heads": shape.kv_heads,
        "norm": shape.norm,
        "activation": shape.activation,
        "tied": shape.tied,
        "biases": shape.biases,
        "attention": shape.attention,
        "window": shape.window,
        "shared_blocks": shape.shared_blocks,
    }
    if shape.preset == "vanilla" and architecture != "encoder-decoder":
        raise RecipeError(
            "shape.preset=vanilla is an encoder-decoder",
            known="the task seq2seq with seq2seq.family=encoder-decoder",
            do="Choose shape.preset=gpt2 or llama here, or run seq2seq.",
        )
    chosen = PRESETS[shape.preset] | {name: value for name, value in given.items() if value is not None}
    config = TransformerConfig(vocab_size=vocab_size, **chosen)
    if architecture != "decoder":
        require_tied(config)
    return config


def model_class(config: TransformerConfig, architecture: Architecture) -> type[Body]:
    """The class of a model of this shape: GPT if only the sizes differ from GPT-2."""
    if architecture != "decoder":
        return Encoder if architecture == "encoder" else EncoderDecoder
    return GPT if config.is_gpt2() else Transformer


def new_model(config: TransformerConfig, architecture: Architecture, seed: int) -> Body:
    """A model with random weights; the sides of an encoder-decoder are drawn independently."""
    kind = model_class(config, architecture)
    if kind is GPT:
        sizes = {field.name: getattr(config, field.name) for field in fields(GPTConfig)}
        return GPT(GPTConfig(**sizes)).initialise(seed)
    if kind is EncoderDecoder:
        return EncoderDecoder(EncoderDecoderConfig(**asdict(config))).initialise(seed)
    return Encoder(config).initialise(seed) if kind is Encoder else Transformer(config).initialise(seed)
