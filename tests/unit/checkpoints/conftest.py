"""A small model of ours, and transformers' of the same shape, both random."""

import pytest
import torch

from finetune.models.gpt import GPT, GPTConfig
from finetune.tokenizer import Tokenizer

SHAPE = GPTConfig(vocab_size=257, context=32, width=48, layers=2, heads=4)


@pytest.fixture
def model() -> GPT:
    """Ours, with nothing left at zero or one."""
    model = GPT(SHAPE).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    return model


@pytest.fixture
def tokenizer() -> Tokenizer:
    """The bytes and the end of text."""
    return Tokenizer.of_bytes()


@pytest.fixture
def theirs():
    """transformers', not written yet."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=257, n_positions=32, n_embd=48, n_layer=2, n_head=4)
    model = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    return model


@pytest.fixture
def input_ids() -> torch.Tensor:
    """Two sequences (2, 32)."""
    return torch.randint(0, 257, (2, 32), generator=torch.Generator().manual_seed(3))
