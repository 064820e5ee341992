"""The bundle: a GPT2ForSequenceClassification directory that also holds what a prediction needs besides weights."""

import shutil
from pathlib import Path

import numpy as np
import torch

from finetune.checkpoints.store import write_checkpoint
from finetune.console import progress
from finetune.errors import WeightsError
from finetune.files import read_json, replace_directory
from finetune.models.gpt import GPT, GPTConfig, up_to
from finetune.run import Run
from finetune.tokenizer import Tokenizer
from finetune.training.batching import micro_batches
from finetune.training.collate import pad_ids
from finetune.training.predict import PREDICT_TOKENS

TOLERANCE = 1e-4  # largest difference of a logit, fp32


def write_language_model(run: Run, model: GPT, tokenizer: Tokenizer, about: list[str], use: list[str],
                         files: dict[str, str] | None = None) -> dict:
    """Write a language model's ``export/hf`` and compare its logits in transformers. Returns the figures.

    about, use: lines of its README: what it is good for in figures, and how to use it. files: what else is put there.
    """
    evaluation, draft = read_json(run.path("eval.json")), run.path("export", ".hf-draft")
    try:
        write_checkpoint(draft, model, tokenizer, extra_files=files)
        checked = compare_language_model(draft, model)
        readme = [f"# {run.name}", "",
                  f"A GPT-2 language model made by gpt2-finetune from {evaluation['weights']['name']}.", "",
                  *(f"- {line}" for line in (*about, checked["summary"])), "", "## Use", "", *use, ""]
        (draft / "README.md").write_text("\n".join(readme), encoding="utf-8", newline="\n")
        replace_directory(run.path("export", "hf"), draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return checked


def compare_language_model(directory: Path, model: GPT) -> dict:
    """Load a language model in transformers and compare logits on random ids."""
    try:
        from transformers import GPT2LMHeadModel
        from transformers.utils import logging as transformers_logging
    except ImportError:
        return {"compared": False, "summary": "written; not compared, transformers is not installed"}
    transformers_logging.disable_progress_bar()
    theirs, loading = GPT2LMHeadModel.from_pretrained(directory, output_loading_info=True, dtype=torch.float32)
    odd = {key: sorted(map(str, value)) for key, value in loading.items() if value}
    ids = random_ids(model.config)
    with torch.inference_mode():
        difference = float((model.cpu()(ids) - theirs(ids).logits).abs().max())
    if odd or difference > TOLERANCE:
        raise WeightsError("transformers reads the export differently",
                           got=f"largest logit difference {difference:.2e}, loading {odd or 'clean'}",
                           do="This is a fault of ours or of that version of transformers: please report it.")
    return {"compared": True, "max_logit_difference": difference,
            "summary": f"transformers gives the same logits, largest difference {difference:.1e}"}


def their_logits(theirs, ids: list[list[int]], end: int) -> np.ndarray:
    """What transformers' classifier says of texts (n, K), padded with `end`."""
    logits = np.zeros((len(ids), theirs.config.num_labels), dtype=np.float32)
    with progress("transformers", len(ids), unit="texts") as advance, torch.inference_mode():
        for rows in micro_batches(list(range(len(ids))), [len(row) for row in ids], PREDICT_TOKENS):
            batch, last = pad_ids([ids[i] for i in rows], pad=end)
            logits[rows] = theirs(batch, attention_mask=up_to(last, batch.shape[1])[:, 0, 0].long()).logits.numpy()
            advance(len(rows))
    return logits


def random_ids(config: GPTConfig) -> torch.Tensor:
    """Two rows of token ids, always the same: (2, T)."""
    size = (2, min(config.context, 128))
    return torch.randint(0, config.vocab_size, size, generator=torch.Generator().manual_seed(0))
