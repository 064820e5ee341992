"""Readers of an exported directory for the comparison: transformers, or plain numpy if that is missing."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from finetune.console import progress
from finetune.export.plain_reader import PlainReader
from finetune.models.gpt import causal_mask_at
from finetune.training.batching import inference_batches
from finetune.training.collate import pad_ids
from finetune.training.predict import PREDICT_TOKENS

MISSING = "; transformers is not installed"


class Reader(Protocol):
    """An export as read by another program. ``odd`` lists unexpected and missing tensors."""

    @property
    def name(self) -> str: ...

    @property
    def odd(self) -> dict[str, list[str]]: ...

    def encode(self, text: str) -> list[int]: ...

    def chat(self, messages: list[dict[str, str]]) -> list[int]: ...

    def classify(self, rows: Sequence[list[int]]) -> np.ndarray: ...

    def tag(self, rows: Sequence[list[int]]) -> list[np.ndarray]: ...

    def next_token_logits(self, ids: np.ndarray) -> np.ndarray: ...

    def target_logits(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray: ...


def has_transformers() -> bool:
    """Whether transformers is installed."""
    return find_spec("transformers") is not None


def open_reader(directory: Path, kind: str) -> Reader:
    """A reader of the directory. kind: its class in transformers, for example ``GPT2LMHeadModel``."""
    return TransformersReader(directory, kind) if has_transformers() else PlainReader(directory)


class TransformersReader:
    """A directory loaded with transformers, as any user would."""

    name = "transformers"

    def __init__(self, directory: Path, kind: str):
        import transformers
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # loading takes a moment
        loader: Any = getattr(transformers, kind)  # the stubs lack output_loading_info and its second result
        self.model, loading = loader.from_pretrained(directory, output_loading_info=True, dtype=torch.float32)
        self.odd = {key: sorted(map(str, value)) for key, value in loading.items() if value}
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, truncated at the tokenizer's own length."""
        ids: list[int] = self.tokenizer(text, truncation=True)["input_ids"]
        return ids

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of messages, rendered by the chat template up to the answer."""
        ids: list[int] = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        return ids

    def classify(self, rows: Sequence[list[int]]) -> np.ndarray:
        """Class logits (n, K)."""
        return padded_logits(self.model, rows, self.tokenizer.pad_token_id)

    @torch.inference_mode()
    def tag(self, rows: Sequence[list[int]]) -> list[np.ndarray]:
        """Tag logits of every token of each text: (T, K) each."""
        logits: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
        for batch in inference_batches([len(row) for row in rows], PREDICT_TOKENS):
            ids, last = pad_ids([rows[at] for at in batch], pad=self.tokenizer.pad_token_id)
            mask = causal_mask_at(last, ids.shape[1])[:, 0, 0].long()
            for at, own in zip(batch, self.model(ids, attention_mask=mask).logits.numpy(), strict=True):
                logits[at] = own[: len(rows[at])]
        return logits

    @torch.inference_mode()
    def next_token_logits(self, ids: np.ndarray) -> np.ndarray:
        """Logits of the next token: (B, T) -> (B, T, V)."""
        logits: np.ndarray = self.model(torch.from_numpy(ids)).logits.numpy()
        return logits

    @torch.inference_mode()
    def target_logits(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """An encoder-decoder's logits of the next target token: (B, S), (B, T) -> (B, T, V)."""
        inputs, read = torch.from_numpy(sources), torch.from_numpy(targets)
        found: np.ndarray = self.model(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), decoder_input_ids=read
        ).logits.numpy()
        return found


def padded_logits(theirs: Any, ids: Sequence[list[int]], end: int) -> np.ndarray:
    """Logits (n, K) of transformers' classifier for texts padded on the right with `end`."""
    logits = np.zeros((len(ids), theirs.config.num_labels), dtype=np.float32)
    with progress("transformers", len(ids), unit="texts") as advance, torch.inference_mode():
        for rows in inference_batches([len(row) for row in ids], PREDICT_TOKENS):
            batch, last = pad_ids([ids[i] for i in rows], pad=end)
            logits[rows] = theirs(
                batch, attention_mask=causal_mask_at(last, batch.shape[1])[:, 0, 0].long()
            ).logits.numpy()
            advance(len(rows))
    return logits
