"""The command ``tokenizer train``: a byte-level BPE vocabulary from text files, saved as GPT-2's two files."""

from pathlib import Path

from finetune.errors import RecipeError
from finetune.tasks.pretrain.documents import iterate_pieces, text_files
from finetune.tokenizer import train_vocabulary


def train_from_files(paths: list[Path], vocab_size: int, directory: Path) -> str:
    """Train on text files or folders and write the two files. Returns a summary line."""
    if (directory / "vocab.json").exists():
        raise RecipeError(f"{directory}: already contains a vocabulary", do="Choose another --out.")
    files = [file for path in paths for file in text_files(path)]
    tokenizer = train_vocabulary((text for file in files for text, _ in iterate_pieces(file)), vocab_size)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory)
    return f"{directory}: {tokenizer.vocab_size:,} tokens from {len(files)} files"
