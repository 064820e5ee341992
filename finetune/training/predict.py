"""A classifier's forward pass over many texts: token ids and logits, without gradients."""

from contextlib import nullcontext

import numpy as np
import torch

from finetune.console import progress
from finetune.models.heads import Classifier
from finetune.tables.readers import text_chunks
from finetune.tokenizer import Tokenizer
from finetune.training.batching import micro_batches
from finetune.training.collate import pad_ids, pad_states
from finetune.training.token_rows import TokenRows

PREDICT_TOKENS = 8192  # of one forward pass without gradients


def encode(tokenizer: Tokenizer, texts: list[str], max_length: int | None = None, show: str = "") -> TokenRows:
    """Ids of each text, cut to `max_length`; no special token is added. show: the name of a progress bar."""
    with progress(show, len(texts), unit="texts") if show else nullcontext(lambda amount: None) as advance:
        def chunks():
            for _, part in text_chunks(texts):
                yield [ids[:max_length] for ids in tokenizer.encode_batch(part)]
                advance(len(part))
        return TokenRows.of(chunks(), tokenizer.vocab_size)


def predict_logits(model: Classifier, ids: list[list[int]], states: list | None = None, first_block: int = 0,
                   budget: int = PREDICT_TOKENS, show: str = "") -> np.ndarray:
    """Logits (n, K) in the order of the rows, whatever batches they ran in; fp32 unless under autocast."""
    device = model.head.weight.device
    logits = np.zeros((len(ids), model.head.out_features), dtype=np.float32)
    bar = progress(show, len(ids), unit="texts") if show else nullcontext(lambda amount: None)
    with torch.inference_mode(), bar as advance:
        for rows in micro_batches(list(range(len(ids))), [len(row) for row in ids], budget):
            inputs, last = pad_states([states[i] for i in rows]) if states else pad_ids([ids[i] for i in rows])
            logits[rows] = model(inputs.to(device), last.to(device), first_block).float().cpu().numpy()
            advance(len(rows))
    return logits
