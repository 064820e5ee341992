"""Hugging Face's layout: a directory that transformers loads, compared with our model before it is published.

A classifier becomes a GPT2ForSequenceClassification, a language model a GPT2LMHeadModel; in the LLaMA shape a
LlamaForSequenceClassification and a LlamaForCausalLM. An encoder-decoder of GPT-2's blocks becomes a
BlenderbotForConditionalGeneration. A task with its own head defines its own layout. Other models, such as encoders, are
written in our own layout, read back and compared. transformers loads the directory as a user would; if it is not
installed, a reader in plain numpy does.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.checkpoints import blenderbot
from finetune.checkpoints.layouts import is_llama, load_directory, write_model
from finetune.checkpoints.sources import WeightsSource
from finetune.checkpoints.store import tokenizer_config
from finetune.console import escape_markdown
from finetune.errors import WeightsError
from finetune.export.exportable import TOLERANCE, Exportable, Exported, draft_of, random_ids, refuse, write_readme
from finetune.export.readers import MISSING, Reader, TransformersReader, has_transformers, open_reader
from finetune.models.bodies import Body
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier
from finetune.models.transformer import LanguageModel
from finetune.training.predict import predict_logits
from finetune.training.token_rows import encode

MERGED = True
PLAIN_TEXTS = 200  # compared by the slower plain reader
SAMPLE = 100  # texts on which a classifier is compared, unless all_texts is set


def write(thing: Exportable, directory: Path, base: WeightsSource | None = None, all_texts: bool = False) -> Exported:
    """Write the directory completely or not at all. Raises WeightsError if a logit differs by more than the tolerance.

    After an error, an earlier export is still in place. base: unused, since the export contains all weights.
    all_texts: compare a classifier on all its texts instead of a sample.
    """
    with draft_of(directory) as draft:
        model = thing.model
        if thing.layout is not None:
            exported = thing.layout(draft)
        else:
            write_model(draft, model, thing.tokenizer, thing.config, thing.files | configs(thing))
            if not in_transformers(model) or (is_llama(model) and not has_transformers()):
                exported = compare_read_back(draft, model)
            elif isinstance(model, Classifier):
                exported = compare_classifier(draft, thing, model, all_texts)
            elif isinstance(model, EncoderDecoder):
                exported = compare_encoder_decoder(draft, model)
            else:
                assert isinstance(model, LanguageModel), "the other models are not in transformers"
                exported = compare_language_model(draft, thing, model)
        public = isinstance(model, GPT) if thing.layout else in_transformers(model)
        write_readme(draft, thing, thing.readme(exported), library="transformers" if public else "gpt2-finetune")
    return exported


def in_transformers(model: Body | Classifier) -> bool:
    """Whether transformers has a class for this model."""
    if isinstance(model, EncoderDecoder):
        return blenderbot.fits(model.config)
    return isinstance(model.body if isinstance(model, Classifier) else model, GPT) or is_llama(model)


def configs(thing: Exportable) -> dict[str, str]:
    """The configurations of the tokenizer and of generation as files: name -> JSON."""
    model, end = thing.model, thing.tokenizer.end_of_text
    if isinstance(model, Classifier):
        settings = tokenizer_config(model.body.config) | {"model_max_length": thing.max_length}
        return {"tokenizer_config.json": _json(settings | thing.tokenizer_settings)}
    settings = tokenizer_config(model.config) | thing.tokenizer_settings
    if not isinstance(model, LanguageModel | EncoderDecoder):
        return {"tokenizer_config.json": _json(settings)}
    if isinstance(model, LanguageModel):  # prompts of different lengths are continued at the right end
        settings["padding_side"] = "left"
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    if isinstance(model, EncoderDecoder):
        ids["decoder_start_token_id"] = end
    return {"tokenizer_config.json": _json(settings), "generation_config.json": _json(ids | thing.generation)}


def compare_language_model(directory: Path, thing: Exportable, model: LanguageModel) -> Exported:
    """Compare a language model's logits on random ids, and its chat template token by token."""
    kind = "LlamaForCausalLM" if is_llama(model) else "GPT2LMHeadModel"
    reader, ids = open_reader(directory, kind), random_ids(model.config)
    with torch.inference_mode():
        ours = model.cpu()(ids).numpy()
    difference = _difference(reader, ours, lambda: reader.next_token_logits(ids.numpy()))
    said = ""
    if thing.conversations:
        said = f"; its chat template reproduces the prompts of {_compare_chats(reader, thing)} records token for token"
    return Exported(
        True,
        f"{reader.name} gives the same logits, largest difference {difference:.1e}{said}{_why(reader)}",
        difference,
    )


def compare_classifier(directory: Path, thing: Exportable, model: Classifier, all_texts: bool = False) -> Exported:
    """Compare token ids, logits and labels of a classifier on the texts, or on a sample of all lengths."""
    reader = open_reader(
        directory, "LlamaForSequenceClassification" if is_llama(model) else "GPT2ForSequenceClassification"
    )
    rows = list(range(len(thing.texts)))
    if not all_texts:
        by_length = sorted(rows, key=lambda row: len(thing.texts[row]))
        rows = [by_length[at] for at in np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).round().astype(int)]
    texts = [thing.texts[row] for row in rows]
    ids = encode(thing.tokenizer, texts, thing.max_length)
    same_ids = sum(reader.encode(text) == row for text, row in zip(texts, ids, strict=True))
    ours = predict_logits(model, ids) if thing.logits is None else thing.logits[rows]
    other = _read(reader, lambda: reader.classify(ids))
    difference = float(np.abs(ours - other).max())
    same_labels = int((ours.argmax(1) == other.argmax(1)).sum())
    if reader.odd or not difference <= TOLERANCE or same_labels < len(texts) or same_ids < len(texts):
        raise refuse(
            reader.name,
            f"largest logit difference {difference:.2e}, {same_labels} of {len(texts)} labels "
            f"and {same_ids} token lists equal, unexpected or missing tensors: {reader.odd or 'none'}",
        )
    sampled = f" (a sample of {len(thing.texts):,})" if len(texts) < len(thing.texts) else ""
    return Exported(
        True,
        f"{reader.name} gives the same labels on {same_labels} of {len(texts)} texts{sampled}, largest logit "
        f"difference {difference:.1e}{_why(reader)}",
        difference,
        len(texts),
        same_labels,
    )


def compare_read_back(directory: Path, model: Body | Classifier) -> Exported:
    """Read a model in our own layout back and compare logits on random ids, bit for bit."""
    again: Any = load_directory(directory).model
    body = model.body if isinstance(model, Classifier) else model
    ids = random_ids(body.config)
    inputs: tuple[torch.Tensor, ...] = (ids,)
    if isinstance(model, EncoderDecoder):
        inputs = ids, ids
    elif isinstance(model, Classifier):
        inputs = ids, torch.tensor([ids.shape[1] - 1, ids.shape[1] // 2])
    with torch.inference_mode():
        back = float((model.cpu()(*inputs) - again(*inputs)).abs().max())
    if back:
        raise WeightsError(
            "the export gives different logits when it is read back",
            got=f"{back:.2e} apart",
            do="This is a bug of ours; please report it.",
        )
    body_kind = f"{body.kind} of this shape" if isinstance(body, EncoderDecoder) else body.kind
    said = f"the layout of {body_kind} is our own" if not is_llama(model) else "transformers is not installed"
    return Exported(True, f"read back, the same logits bit for bit; {said}", back)


def compare_encoder_decoder(directory: Path, model: EncoderDecoder) -> Exported:
    """Read an encoder-decoder back, bit for bit, and compare its logits on random ids in transformers' Blenderbot."""
    compare_read_back(directory, model)
    ids = random_ids(model.config)
    with torch.inference_mode():
        ours = model.cpu()(ids, ids).numpy()
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
                f"A language model made by gpt2-finetune from {escape_markdown(weights)}.",
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
    """The result of `read`. Raises WeightsError if the reader cannot read the export."""
    try:
        return read()
    except (KeyError, ValueError, IndexError) as error:
        raise refuse(reader.name, str(error)) from error


def _difference(reader: Reader, ours: np.ndarray, read: Callable[[], np.ndarray]) -> float:
    """The largest difference of two logits. Raises WeightsError if it exceeds the tolerance."""
    difference = float(np.abs(ours - _read(reader, read)).max())
    if reader.odd or not difference <= TOLERANCE:
        raise refuse(
            reader.name,
            f"largest logit difference {difference:.2e}, unexpected or missing tensors: {reader.odd or 'none'}",
        )
    return difference


def _compare_chats(reader: Reader, thing: Exportable) -> int:
    """Compare the chat template's prompts with ours. Returns their number; raises WeightsError if one differs."""
    for number, said in enumerate(thing.conversations):
        if reader.chat(said.messages) != said.prompt:
            raise refuse(reader.name, f"the chat template gives a different prompt for conversation {number}")
    return len(thing.conversations)


def _why(reader: Reader) -> str:
    return "" if isinstance(reader, TransformersReader) else MISSING


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
