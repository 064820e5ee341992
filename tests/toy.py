"""A classifier small enough to train in a second: 2 layers of width 32 over bytes, and 60 short texts.

Loaded by path (``runpy.run_path``), since the tests are no package.
"""

import numpy as np
import torch

from finetune.models.gpt import GPT, GPTConfig
from finetune.recipe import Train
from finetune.tasks.classify import job
from finetune.tokenizer import Tokenizer
from finetune.training.job import Job
from finetune.training.token_rows import encode
from finetune.training.trainable import adapt, freeze

WORDS = ("prize", "claim", "free", "cash", "now", "urgent", "lunch", "home", "love", "ok", "see", "tomorrow")


def toy_texts(rows: int = 60, classes: int = 2) -> tuple[list[str], np.ndarray]:
    """Texts of 1 to 9 words and their class numbers; class 0 is the most frequent."""
    random = np.random.default_rng(5)
    targets = np.minimum(random.integers(0, classes + 1, rows), classes - 1)[::-1].copy()
    texts = [
        " ".join(random.choice(WORDS[target * 4 : target * 4 + 8], size=random.integers(1, 10))) for target in targets
    ]
    return texts, targets


def toy_job(method: str = "full", **settings) -> tuple[Job, Train]:
    """A job with fresh seeded weights, and the settings that it was built with."""
    chosen = Train(
        **{
            "method": method,
            "epochs": 2,
            "lr": 3e-3,
            "batch_size": 8,
            "last_blocks": 1,
            "precision": "fp32",
            "threads": 1,
            "micro_batch_tokens": 128,
        }
        | settings
    )
    tokenizer = Tokenizer.of_bytes()
    config = GPTConfig(tokenizer.vocab_size, context=128, width=32, layers=2, heads=2, dropout=chosen.dropout)
    model = job.build_model(GPT(config).initialise(1, std=0.1), classes=2, seed=chosen.seed)
    adapt(model.body, chosen)
    trainable = freeze(model, model.body, chosen.method, chosen.last_blocks)
    texts, targets = toy_texts()
    encoded = encode(tokenizer, texts, config.context)
    train, val = (
        job.Examples(list(range(100, 160))[rows], encoded[rows], targets[rows])
        for rows in (slice(0, 44), slice(44, 60))
    )
    return job.build_job(model, trainable, chosen, train, val, torch.device("cpu")), chosen
