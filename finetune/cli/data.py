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

app = typer.Typer(no_args_is_help=True, help="Check data before training.")


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
    labels: Annotated[str | None, typer.Option(metavar="one|many", help="Number of labels per row.")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="classify|seq2seq|instruct", help="What the data is for; default: inferred from its columns."
        ),
    ] = None,
    ignore: IgnoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read a labelled table, pairs or instructions as training would, and list their problems."""
    if labels not in (None, "one", "many"):
        raise RecipeError("unknown number of labels per row", got=f"--labels {labels}", known="one, many")
    from finetune.commands.check_examples import CLASSIFY, INSTRUCTIONS, PAIRS, check_examples, kind_of, show_examples
    from finetune.recipe import Columns
    from finetune.tables.standard_input import table_name
    from finetune.tasks.classify.check import check_file, show

    given = [text, label, validation, test, group, split, time, labels]
    with table_name(data) as name:
        kind = task or (CLASSIFY if any(given) else kind_of(name, encoding))
        if kind not in (CLASSIFY, PAIRS, INSTRUCTIONS):
            raise RecipeError(
                "data check does not support this task",
                got=f"--task {task}",
                known=f"{CLASSIFY}, {PAIRS}, {INSTRUCTIONS}",
            )
        if kind != CLASSIFY:
            if any(given):
                raise RecipeError(
                    "the options for columns and for further tables are only for labelled tables",
                    got=f"--task {task}",
                    do="Leave one out.",
                )
            show_examples(check_examples(name, kind, weights, encoding, ignore or []), as_json)
            return
        columns = Columns(text=text, label=label, group=group, split=split, time=time)
        show(check_file(name, columns, weights, encoding, ignore or [], validation or "", test or "", labels), as_json)
