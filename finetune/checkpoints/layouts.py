"""The layouts of checkpoints: GPT-2's, LLaMA's and Blenderbot's as in transformers, or our own for other models."""

from pathlib import Path
from typing import Any

from finetune.checkpoints import blenderbot
from finetune.checkpoints.llama import MODEL_TYPE as LLAMA
from finetune.checkpoints.llama import load_llama, read_llama_config, write_llama
from finetune.checkpoints.own_layout import KINDS, load_own, read_own_config, write_own
from finetune.checkpoints.store import LoadedCheckpoint, load_checkpoint, read_config, read_object, write_checkpoint
from finetune.models.bodies import Body
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier
from finetune.models.transformer import Transformer, TransformerConfig
from finetune.tokenizer import Tokenizer


def load_directory(
    directory: Path, config: GPTConfig | None = None, dropout: float = 0.0, mapped: bool = False
) -> LoadedCheckpoint:
    """Load a checkpoint directory of any layout. config: the shape if the directory has no config.json (a GPT-2).

    mapped: for a GPT-2, as in ``load_checkpoint``.
    """
    kind = "" if config else model_type(directory)
    if kind in KINDS:
        return load_own(directory, dropout)
    if kind == LLAMA:
        return load_llama(directory, dropout)
    if kind == blenderbot.MODEL_TYPE:
        return blenderbot.load_blenderbot(directory, dropout)
    return load_checkpoint(directory, config, dropout, mapped)


def read_shape(directory: Path) -> tuple[type[Body], GPTConfig]:
    """The class of a checkpoint's model and its shape, from config.json alone."""
    kind, path = model_type(directory), Path(directory) / "config.json"
    if kind in KINDS:
        build, config = read_own_config(path)
        assert isinstance(build, type), "a model's class"
        return build, config
    if kind == LLAMA:
        return Transformer, read_llama_config(path)
    if kind == blenderbot.MODEL_TYPE:
        return EncoderDecoder, blenderbot.read_blenderbot_config(path)
    return GPT, read_config(directory)


def write_model(
    directory: Path,
    model: Body | Classifier,
    tokenizer: Tokenizer,
    extra_config: dict[str, Any] | None = None,
    extra_files: dict[str, str] | None = None,
) -> None:
    """Write a model in its layout, atomically; an existing directory of that name is replaced at the end."""
    body = model.body if isinstance(model, Classifier) else model
    if isinstance(body, GPT):
        assert isinstance(model, GPT | Classifier), "a GPT or a classifier on one"
        write_checkpoint(directory, model, tokenizer, extra_config, extra_files)
    elif is_llama(model):
        assert isinstance(model, Transformer | Classifier), "a decoder or a classifier on one"
        write_llama(directory, model, tokenizer, extra_config, extra_files)
    elif isinstance(model, EncoderDecoder) and blenderbot.fits(model.config):
        blenderbot.write_blenderbot(directory, model, tokenizer, extra_config, extra_files)
    else:
        assert not isinstance(model, GPT), "written above"
        write_own(directory, model, tokenizer, extra_config, extra_files)


def is_llama(model: Body | Classifier) -> bool:
    """Whether transformers' LLaMA classes compute the same as this model."""
    body = model.body if isinstance(model, Classifier) else model
    return isinstance(body, Transformer) and body.config.is_llama()


def differences(config: GPTConfig) -> str:
    """The options of a shape that differ from GPT-2, for the screen; empty for a GPT-2."""
    return config.said() if isinstance(config, TransformerConfig) else ""


def model_type(directory: Path) -> str:
    """The model_type in a directory's config.json; empty if there is none."""
    path = Path(directory) / "config.json"
    kind = read_object(path).get("model_type", "") if path.is_file() else ""
    return kind if isinstance(kind, str) else ""
