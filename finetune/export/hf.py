"""Hugging Face's layout: a directory that transformers loads, compared with our model before it is published.

A classifier becomes a GPT2ForSequenceClassification, a language model a GPT2LMHeadModel; in the LLaMA shape a
LlamaForSequenceClassification and a LlamaForCausalLM. A model under a task's own head becomes whatever the task's layout
says. No public class has the shape of the others, such as our encoders and encoder-decoders: they are written in our
own layout, read back and compared.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.checkpoints.layouts import is_llama, load_directory, write_model
from finetune.checkpoints.sources import WeightsSource
from finetune.console import clean, escape_markdown, progress
from finetune.errors import WeightsError
from finetune.export.exportable import TOLERANCE, Exportable, Exported, draft_of, random_ids, refuse
from finetune.models.bodies import Body
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT, causal_mask_at
from finetune.models.heads import Classifier
from finetune.models.transformer import LanguageModel
from finetune.training.batching import micro_batches
from finetune.training.collate import pad_ids
from finetune.training.predict import PREDICT_TOKENS, predict_logits
from finetune.training.token_rows import encode

MERGED = True
NOT_COMPARED = Exported(False, "written; not compared, transformers is not installed")


def write(thing: Exportable, directory: Path, base: WeightsSource | None = None) -> Exported:
    """Write the directory completely or not at all. Raises WeightsError if a logit differs by more than the tolerance.

    After an error an earlier export is still in place. base: unused, since the export contains all weights.
    """
    with draft_of(directory) as draft:
        model = thing.model
        if thing.layout is not None:
            exported = thing.layout(draft)
        else:
            write_model(draft, model, thing.tokenizer, thing.config, thing.files)
            if not in_transformers(model):
                exported = compare_read_back(draft, model)
            elif isinstance(model, Classifier):
                exported = compare_classifier(draft, thing, model)
            else:
                assert isinstance(model, LanguageModel), "the other models are not in transformers"
                exported = compare_language_model(draft, model)
        (draft / "README.md").write_text(clean(thing.readme(exported)), encoding="utf-8", newline="\n")
    return exported


def in_transformers(model: Body | Classifier) -> bool:
    """Whether transformers has a class that computes the same."""
    return isinstance(model.body if isinstance(model, Classifier) else model, GPT) or is_llama(model)


def compare_language_model(directory: Path, model: LanguageModel) -> Exported:
    """Load a language model in transformers and compare logits on random ids."""
    try:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging as transformers_logging
    except ImportError:
        return NOT_COMPARED
    transformers_logging.disable_progress_bar()  # loading takes no time
    kind: Any = AutoModelForCausalLM  # its type hints lack output_loading_info, which makes it return a pair
    theirs, loading = kind.from_pretrained(directory, output_loading_info=True, dtype=torch.float32)
    odd = {key: sorted(map(str, value)) for key, value in loading.items() if value}
    ids = random_ids(model.config)
    with torch.inference_mode():
        difference = float((model.cpu()(ids) - theirs(ids).logits).abs().max())
    if odd or difference > TOLERANCE:
        raise refuse("transformers", f"largest logit difference {difference:.2e}, loading {odd or 'clean'}")
    return Exported(True, f"transformers gives the same logits, largest difference {difference:.1e}", difference)


def compare_classifier(directory: Path, thing: Exportable, model: Classifier) -> Exported:
    """Load a classifier in transformers and compare token ids, logits and labels on the texts."""
    try:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging as transformers_logging
    except ImportError:
        return NOT_COMPARED
    transformers_logging.disable_progress_bar()
    kind: Any = AutoModelForSequenceClassification  # as above
    theirs, loading = kind.from_pretrained(directory, output_loading_info=True)
    odd = {key: sorted(map(str, value)) for key, value in loading.items() if value}
    their_tokenizer, texts = AutoTokenizer.from_pretrained(directory), thing.texts
    ids = encode(thing.tokenizer, texts, thing.max_length)
    same_ids = sum(
        their_tokenizer(text, truncation=True, max_length=thing.max_length)["input_ids"] == row
        for text, row in zip(texts, ids, strict=True)
    )
    ours, other = predict_logits(model, ids), their_logits(theirs, ids, thing.tokenizer.end_of_text)
    difference = float(np.abs(ours - other).max())
    same_labels = int((ours.argmax(1) == other.argmax(1)).sum())
    if odd or difference > TOLERANCE or same_labels < len(texts) or same_ids < len(texts):
        raise refuse(
            "transformers",
            f"largest logit difference {difference:.2e}, {same_labels} of {len(texts)} labels "
            f"and {same_ids} token lists equal, loading {odd or 'clean'}",
        )
    return Exported(
        True,
        f"transformers gives the same labels on {same_labels} of {len(texts)} texts, largest logit "
        f"difference {difference:.1e}",
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
        difference = float((model.cpu()(*inputs) - again(*inputs)).abs().max())
    if difference:
        raise WeightsError(
            "the export gives different logits when it is read back",
            got=f"a difference of {difference:.2e}",
            do="This is a bug of ours; please report it.",
        )
    return Exported(True, f"read back, the same logits bit for bit; the layout of {body.kind} is our own", difference)


def their_logits(theirs: Any, ids: Sequence[list[int]], end: int) -> np.ndarray:
    """The logits (n, K) of transformers' classifier on token ids, padded with `end`."""
    logits = np.zeros((len(ids), theirs.config.num_labels), dtype=np.float32)
    with progress("transformers", len(ids), unit="texts") as advance, torch.inference_mode():
        for rows in micro_batches(list(range(len(ids))), [len(row) for row in ids], PREDICT_TOKENS):
            batch, last = pad_ids([ids[i] for i in rows], pad=end)
            logits[rows] = theirs(
                batch, attention_mask=causal_mask_at(last, batch.shape[1])[:, 0, 0].long()
            ).logits.numpy()
            advance(len(rows))
    return logits


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
