"""The commands of ``finetune weights``."""

from typing import Annotated

import typer

from finetune.console import say
from finetune.errors import RecipeError

app = typer.Typer(no_args_is_help=True, help="Pretrained weights: list, download, check.")


@app.command("ls")
def ls() -> None:
    """List the known weights, and which are on this machine."""
    from finetune.hub.fetch import weights_status
    from finetune.hub.registry import weights_registry

    for name, row in weights_registry().items():
        millions = f"{row.parameters / 1e6:,.0f} M" if row.parameters else ""
        say(f"{name:14} {millions:>8}  {weights_status(row):10} {row.licence:12} {row.description}")
    say(f"{'mini':14} {'7 M':>8}  {'bundled':10} {'CC BY-SA 4.0':12} our own small GPT-2, works offline")


@app.command("get")
def get(name: str) -> None:
    """Download weights into the Hugging Face cache and check the sha256 of every file."""
    from finetune.checkpoints.sources import locate_weights, resolve_auto

    say(str(locate_weights(resolve_auto(name), fetch=True).directory))


@app.command("verify")
def verify(name: Annotated[str | None, typer.Argument()] = None) -> None:
    """Check the sha256 of the weights on this machine."""
    from finetune.errors import FetchError
    from finetune.hub.fetch import verify_weights, weights_status
    from finetune.hub.registry import weights_registry

    rows = weights_registry()
    if name is not None and name not in rows:
        raise RecipeError(f"unknown weights {name!r}", known=", ".join(rows))
    wrong = []
    here = [rows[name]] if name else [row for row in rows.values() if weights_status(row) != "not here"]
    for row in here:
        for check in verify_weights(row):
            say(f"{row.name:14} {check.file:30} {check.status:10} {check.size_bytes:>13,} {check.sha256[:16]}")
            wrong += [f"{row.name}/{check.file}"] if check.status in ("wrong", "missing") else []
    if wrong:
        raise FetchError("weights are damaged or missing", got=", ".join(wrong), do="Run: finetune weights get NAME")
    say("checked: all files are intact" if here else "no weights on this machine: nothing to check")
