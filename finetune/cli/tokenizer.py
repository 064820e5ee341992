"""The commands of ``finetune tokenizer``."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.console import say

app = typer.Typer(no_args_is_help=True, help="Train a tokenizer, or show how one splits a text.")


@app.command("train")
def train(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="Text files or folders.")],
    vocab_size: Annotated[int, typer.Option(min=1, help="Vocabulary size, special tokens included.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output directory.")] = Path("tokenizer"),
) -> None:
    """Train a byte-level BPE tokenizer on texts; writes vocab.json and merges.txt."""
    from finetune.commands.train_tokenizer import train_from_files

    say(train_from_files(files, vocab_size, out))


@app.command("show")
def show(
    text: Annotated[str, typer.Argument(metavar="TEXT")],
    weights: Annotated[str, typer.Option(metavar="NAME|DIR", help="Weights whose tokenizer is used.")] = "mini",
) -> None:
    """Show the tokens of a text: ids, bytes, and the merges that lead to them."""
    from finetune.commands.show_tokens import show_tokens

    for line in show_tokens(text, weights):
        say(line)
