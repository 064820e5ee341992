"""The commands of ``finetune data``."""

from typing import Annotated

import typer

from finetune.cli.options import EncodingOption, IgnoreOption
from finetune.errors import RecipeError

app = typer.Typer(no_args_is_help=True, help="Check a labelled table before training.")


@app.command("check")
def check(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A table or a data set's name.")],
    text: Annotated[str | None, typer.Option(metavar="COL", help="Text column; several: A,B.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COL", help="The label column.")] = None,
    weights: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="Weights whose tokenizer and context length apply.")
    ] = "mini",
    encoding: EncodingOption = None,
    labels: Annotated[str | None, typer.Option(metavar="one|many", help="How many labels a row has.")] = None,
    ignore: IgnoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Read a labelled table as training would, and list its problems."""
    if labels not in (None, "one", "many"):
        raise RecipeError("unknown number of labels in a row", got=f"--labels {labels}", known="one, many")
    from finetune.tasks.classify.check import check_file, show

    show(check_file(data, text, label, weights, encoding, ignore or [], labels), as_json)
