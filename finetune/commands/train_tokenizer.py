"""Train a byte-level BPE vocabulary with the `tokenizers` library, saved as GPT-2's two files."""

import json
from collections.abc import Iterable
from pathlib import Path

from finetune.errors import RecipeError
from finetune.tasks.pretrain.documents import iterate_pieces, text_files
from finetune.tokenizer import END_OF_TEXT, SPLIT_PATTERN, Tokenizer, byte_alphabet

SPECIAL_TOKENS = ("<|pad|>", "<|mask|>", "<|sep|>", END_OF_TEXT)  # last, in this order


def train_vocabulary(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from texts. The vocabulary is the 256 bytes, the merges in order, then the special tokens.

    Raises RecipeError if `vocab_size` leaves no room for a merge, or `tokenizers` is not installed.
    """
    merges_wanted = vocab_size - 256 - len(SPECIAL_TOKENS)
    if merges_wanted < 1:
        raise RecipeError(
            "the vocabulary is too small",
            got=str(vocab_size),
            known=f"at least {257 + len(SPECIAL_TOKENS)}: the bytes, a merge, the special tokens",
        )
    try:
        from tokenizers import Regex, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Trainable
    except ImportError as error:
        raise RecipeError("training a tokenizer needs the package tokenizers", do="pip install tokenizers") from error
    alphabet = list(byte_alphabet().values())
    learner = Trainable(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN.replace("++", "+")), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=256 + merges_wanted, initial_alphabet=alphabet, show_progress=False)
    )
    found = json.loads(learner.to_str())["model"]["merges"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in found]
    tokens = [*alphabet, *(pair.replace(" ", "") for pair in merges), *SPECIAL_TOKENS]
    vocab = json.dumps({token: rank for rank, token in enumerate(tokens)}, ensure_ascii=False)
    return Tokenizer(vocab, "\n".join(["#version: 0.2", *merges]) + "\n", source="trained")


def train_from_files(paths: list[Path], vocab_size: int, directory: Path) -> str:
    """Train on text files or folders and write the two files. Returns a summary line."""
    if (directory / "vocab.json").exists():
        raise RecipeError(f"{directory}: already contains a vocabulary", do="Choose another --out.")
    files = [file for path in paths for file in text_files(path)]
    tokenizer = train_vocabulary((text for file in files for text, _ in iterate_pieces(file)), vocab_size)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory)
    return f"{directory}: {tokenizer.vocab_size:,} tokens from {len(files)} files"
