"""The commands of ``finetune weights``."""

from typing import Annotated

import typer

from finetune.console import say

app = typer.Typer(no_args_is_help=True, help="Pretrained weights: list, download, check.")


@app.command("ls")
def ls() -> None:
    """List the known weights, and which are on this machine."""
    from finetune.commands.weights import list_weights

    for line in list_weights():
        say(line)


@app.command("get")
def get(name: str) -> None:
    """Download weights into the Hugging Face cache and check the sha256 of every file."""
    from finetune.checkpoints.sources import locate_weights, resolve_auto

    say(str(locate_weights(resolve_auto(name), fetch=True).directory))


@app.command("verify")
def verify(name: Annotated[str | None, typer.Argument()] = None) -> None:
    """Check the sha256 of the weights on this machine, including the bundled ones."""
    from finetune.commands.weights import verify_files

    for line in verify_files(name):
        say(line)
