"""Fallback weights for a machine without a network: the bundled checkpoint, and random weights."""

from pathlib import Path

from finetune.checkpoints.store import write_checkpoint
from finetune.models.gpt import GPT, GPTConfig
from finetune.tokenizer import Tokenizer

MINI = "mini"  # the bundled checkpoint: pretrained, but small
RANDOM_BYTES = "random-bytes"  # if the bundled one is missing
SCRATCH = "scratch"  # random weights of the recipe's shape


def write_random_bytes(directory: Path, seed: int) -> None:
    """Write the checkpoint: 4 layers of width 128 and a vocabulary of 256 bytes and ``<|endoftext|>``."""
    tokenizer = Tokenizer.of_bytes()
    config = GPTConfig(vocab_size=tokenizer.vocab_size, context=512, width=128, layers=4, heads=4)
    write_checkpoint(directory, GPT(config).initialise(seed), tokenizer)
