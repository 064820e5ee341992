"""A GPT over bytes, small enough to draw in a blink, with weights large enough that its answers differ."""

import pytest


@pytest.fixture(scope="session")
def gpt():
    """Two layers of two heads, width 16, context 48."""
    from finetune.models.gpt import GPT, GPTConfig

    return GPT(GPTConfig(257, context=48, width=16, layers=2, heads=2)).initialise(1, std=0.3).eval()


@pytest.fixture(scope="session")
def tokenizer():
    """The 256 bytes."""
    from finetune.tokenizer import Tokenizer

    return Tokenizer.of_bytes()


@pytest.fixture(scope="session")
def checkpoint(gpt, tokenizer, tmp_path_factory):
    """The same as a directory."""
    from finetune.checkpoints.store import write_checkpoint

    directory = tmp_path_factory.mktemp("tiny") / "tiny"
    write_checkpoint(directory, gpt, tokenizer)
    return directory
