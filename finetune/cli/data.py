"""The commands of ``finetune data``."""

from typing import Annotated

import typer

from finetune.cli.options import (
    EncodingOption,
    GroupOption,
    IgnoreOption,
    LabelOption,
    SplitOption,
    TestOption,
    TextOption,
    TimeOption,
    ValidationOption,
)
from finetune.errors import RecipeError

app = typer.Typer(no_args_is_help=True, help="Check a labelled table before training.")


@app.command("check")
def check(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A table file or the name of a data set; -: standard input.")
    ],
    text: TextOption = None,
    label: LabelOption = None,
    validation: ValidationOption = None,
    test: TestOption = None,
    group: GroupOption = None,
    split: SplitOption = None,
    time: TimeOption = None,
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
