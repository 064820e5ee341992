"""Hugging Face's layout: a directory that transformers loads, compared with our model before it is published.

A classifier becomes a GPT2ForSequenceClassification, a language model a GPT2LMHeadModel, an encoder-decoder of GPT-2's
blocks a BlenderbotForConditionalGeneration, and a GPT under a task's own head whatever the task's layout says; an
encoder-decoder of another shape is written in a layout of our own. transformers loads the directory as any user would;
if it is not installed, a reader in plain numpy does.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.checkpoints import blenderbot
from finetune.checkpoints.encoder_decoder import load_encoder_decoder, write_encoder_decoder
from finetune.checkpoints.sources import WeightsSource
from finetune.checkpoints.store import tokenizer_config, write_checkpoint
from finetune.console import escape_markdown
from finetune.errors import WeightsError
from finetune.export.exportable import TOLERANCE, Exportable, Exported, draft_of, random_ids, refuse, write_readme
from finetune.export.readers import MISSING, Reader, TransformersReader, open_reader
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier
from finetune.training.predict import predict_logits
from finetune.training.token_rows import encode

MERGED = True
PLAIN_TEXTS = 200  # on which the slower reader in numpy compares a classifier


def write(thing: Exportable, directory: Path, base: WeightsSource | None = None) -> Exported:
    """Write the directory completely or not at all. Raises WeightsError if a logit differs by more than the tolerance.

    After an error an earlier export is still in place. base: unused, since the export contains all weights.
    """
    with draft_of(directory) as draft:
        if thing.layout is not None:
            exported = thing.layout(draft)
        elif isinstance(thing.model, EncoderDecoder):
            write_encoder_decoder(draft, thing.model, thing.tokenizer, thing.files | configs(thing))
            exported = compare_encoder_decoder(draft, thing.model)
        else:
            write_checkpoint(draft, thing.model, thing.tokenizer, thing.config, thing.files | configs(thing))
            exported = (
                compare_classifier(draft, thing, thing.model)
                if isinstance(thing.model, Classifier)
                else compare_language_model(draft, thing, thing.model)
            )
        write_readme(draft, thing, thing.readme(exported))
    return exported


def configs(thing: Exportable) -> dict[str, str]:
    """How texts are tokenized, and how a language model writes, as files: name -> JSON."""
    model, end = thing.model, thing.tokenizer.end_of_text
    if isinstance(model, Classifier):
        settings = tokenizer_config(model.gpt.config) | {"model_max_length": thing.max_length}
        return {"tokenizer_config.json": _json(settings | thing.tokenizer_settings)}
    settings = tokenizer_config(model.config) | thing.tokenizer_settings
    if isinstance(model, GPT):  # a batch of prompts of several lengths goes on at its right end
        settings["padding_side"] = "left"
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    if isinstance(model, EncoderDecoder):
        ids["decoder_start_token_id"] = end
    return {"tokenizer_config.json": _json(settings), "generation_config.json": _json(ids | thing.generation)}


def compare_language_model(directory: Path, thing: Exportable, model: GPT) -> Exported:
    """Compare a language model's logits on random ids, and its chat template token by token."""
    reader, ids = open_reader(directory, "GPT2LMHeadModel"), random_ids(model.config)
    with torch.inference_mode():
        ours = model.cpu()(ids).numpy()
    difference = _difference(reader, ours, lambda: reader.next_token_logits(ids.numpy()))
    said = ""
    if thing.conversations and isinstance(reader, TransformersReader):
        said = f"; its chat template gives the prompts of {_compare_chats(reader, thing)} records token by token"
    return Exported(
        True,
        f"{reader.name} gives the same logits, largest difference {difference:.1e}{said}{_why(reader)}",
        difference,
    )


def compare_classifier(directory: Path, thing: Exportable, model: Classifier) -> Exported:
    """Compare token ids, logits and labels of a classifier on the texts."""
    reader = open_reader(directory, "GPT2ForSequenceClassification")
    texts = thing.texts if isinstance(reader, TransformersReader) else thing.texts[:PLAIN_TEXTS]
    ids = encode(thing.tokenizer, texts, thing.max_length)
    same_ids = sum(reader.encode(text) == row for text, row in zip(texts, ids, strict=True))
    ours = predict_logits(model, ids)
    other = _read(reader, lambda: reader.classify(ids))
    difference = float(np.abs(ours - other).max())
    same_labels = int((ours.argmax(1) == other.argmax(1)).sum())
    if reader.odd or not difference <= TOLERANCE or same_labels < len(texts) or same_ids < len(texts):
        raise refuse(
            reader.name,
            f"largest logit difference {difference:.2e}, {same_labels} of {len(texts)} labels "
            f"and {same_ids} token lists equal, loading {reader.odd or 'clean'}",
        )
    return Exported(
        True,
        f"{reader.name} gives the same labels on {same_labels} of {len(texts)} texts, largest logit "
        f"difference {difference:.1e}{_why(reader)}",
        difference,
        len(texts),
        same_labels,
    )


def compare_encoder_decoder(directory: Path, model: EncoderDecoder) -> Exported:
    """Compare an encoder-decoder's logits on random ids; one in our own layout is read back, the same bit for bit."""
    ids = random_ids(model.config)
    again = load_encoder_decoder(directory).model
    with torch.inference_mode():
        ours = model.cpu()(ids, ids).numpy()
        back = float(np.abs(ours - again(ids, ids).numpy()).max())
    if back:
        raise WeightsError(
            "the export gives other logits when it is read back",
            got=f"{back:.2e} apart",
            do="This is a fault of ours: please report it.",
        )
    if not blenderbot.fits(model.config):
        return Exported(True, "read back, the same logits bit for bit; its shape has a layout of our own", back)
    reader = open_reader(directory, blenderbot.CLASS)
    difference = _difference(reader, ours, lambda: reader.target_logits(ids.numpy(), ids.numpy()))
    return Exported(
        True, f"{reader.name} gives the same logits, largest difference {difference:.1e}{_why(reader)}", difference
    )


def language_model_readme(name: str, weights: str, about: list[str], use: list[str]) -> Callable[[Exported], str]:
    """The README of a language model. about: lines with its results. use: lines that show how to use it."""

    def readme(exported: Exported) -> str:
        return "\n".join(
            [
                f"# {escape_markdown(name)}",
                "",
                f"A GPT-2 language model made by gpt2-finetune from {escape_markdown(weights)}.",
                "",
                *(f"- {line}" for line in (*about, exported.summary)),
                "",
                "## Use",
                "",
                *use,
                "",
            ]
        )

    return readme


def _read(reader: Reader, read: Callable[[], np.ndarray]) -> np.ndarray:
    """What the reader makes of it. Raises WeightsError where it can make nothing of it."""
    try:
        return read()
    except (KeyError, ValueError, IndexError) as error:
        raise refuse(reader.name, str(error)) from error


def _difference(reader: Reader, ours: np.ndarray, read: Callable[[], np.ndarray]) -> float:
    """The largest difference of a logit. Raises WeightsError if it is more than the tolerance."""
    difference = float(np.abs(ours - _read(reader, read)).max())
    if reader.odd or not difference <= TOLERANCE:
        raise refuse(reader.name, f"largest logit difference {difference:.2e}, loading {reader.odd or 'clean'}")
    return difference


def _compare_chats(reader: TransformersReader, thing: Exportable) -> int:
    """How many conversations the chat template renders as we do: all, or WeightsError."""
    for number, said in enumerate(thing.conversations):
        ids = reader.tokenizer.apply_chat_template(said.messages, add_generation_prompt=True, return_dict=False)
        if ids != said.prompt:
            raise refuse(reader.name, f"another prompt from the chat template, of conversation {number}")
    return len(thing.conversations)


def _why(reader: Reader) -> str:
    return "" if isinstance(reader, TransformersReader) else MISSING


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
