"""The commands of ``finetune data``."""

from typing import Annotated

import typer

from finetune.cli.options import EncodingOption, IgnoreOption
from finetune.errors import RecipeError

app = typer.Typer(no_args_is_help=True, help="Check a labelled table before training.")


@app.command("check")
def check(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A table file or the name of a data set; -: standard input.")
    ],
    text: Annotated[str | None, typer.Option(metavar="COL", help="Text column; several: A,B.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COL", help="The label column.")] = None,
    validation: Annotated[str | None, typer.Option(metavar="V.csv", help="Validation table.")] = None,
    test: Annotated[str | None, typer.Option(metavar="T.csv", help="Test table.")] = None,
    group: Annotated[
        str | None, typer.Option(metavar="COL", help="Group column: rows of a group stay in one split.")
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="COL", help="Split column: train, val or test.")] = None,
    time: Annotated[
        str | None, typer.Option(metavar="COL", help="Time column: train on the oldest rows, test on the newest.")
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="Weights whose tokenizer and context length apply.")
    ] = "mini",
    encoding: EncodingOption = None,
    labels: Annotated[str | None, typer.Option(metavar="one|many", help="How many labels a row has.")] = None,
    ignore: IgnoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read and split a labelled table as training would, and list its problems."""
    if labels not in (None, "one", "many"):
        raise RecipeError("unknown number of labels in a row", got=f"--labels {labels}", known="one, many")
    from finetune.recipe import Columns
    from finetune.tables.standard_input import table_name
    from finetune.tasks.classify.check import check_file, show

    columns = Columns(text=text, label=label, group=group, split=split, time=time)
    with table_name(data) as name:
        show(check_file(name, columns, weights, encoding, ignore or [], validation or "", test or "", labels), as_json)
