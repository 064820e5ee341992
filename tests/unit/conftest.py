"""What several of the unit tests start from."""

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A checkpoint that is fine-tuned in a blink: one layer of width 16 over bytes."""
    from finetune.checkpoints.store import write_checkpoint
    from finetune.models.gpt import GPT, GPTConfig
    from finetune.tokenizer import Tokenizer

    directory, tokenizer = tmp_path_factory.mktemp("tiny") / "tiny", Tokenizer.of_bytes()
    config = GPTConfig(tokenizer.vocab_size, context=32, width=16, layers=1, heads=2)
    write_checkpoint(directory, GPT(config).initialise(1, std=0.1), tokenizer)
    return directory
