"""The options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

RUNS = Path("runs")
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting.")]
NameOption = Annotated[str | None, typer.Option(help="The run's name under runs/.")]
FromOption = Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Rerun this stage and all later ones.")]
UntilOption = Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")]
ProcessesOption = Annotated[
    int | None, typer.Option(min=1, help="Number of processes that share the work; default: one on each GPU.")
]
SeedsOption = Annotated[
    int | None, typer.Option(metavar="N", min=2, help="Classifiers: train with N seeds, and show mean and spread.")
]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Rerun every stage; reuse nothing from other runs.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan with estimated time and memory; keep nothing.")
]
TextOption = Annotated[str | None, typer.Option(metavar="COL", help="Text column; several: A,B.")]
LabelOption = Annotated[str | None, typer.Option(metavar="COL", help="The label column.")]
ValidationOption = Annotated[str | None, typer.Option(metavar="V.csv", help="Validation table.")]
TestOption = Annotated[str | None, typer.Option(metavar="T.csv", help="Test table.")]
GroupOption = Annotated[
    str | None, typer.Option(metavar="COL", help="Group column: rows of a group stay in one split.")
]
SplitOption = Annotated[str | None, typer.Option(metavar="COL", help="Split column: train, val or test.")]
TimeOption = Annotated[
    str | None, typer.Option(metavar="COL", help="Time column: train on the oldest rows, test on the newest.")
]
EncodingOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Encoding of input tables that are not UTF-8.")
]
LongTextsOption = Annotated[
    str | None,
    typer.Option(metavar="WAY", help="How to read texts longer than the model's input: cut, head-tail or windows."),
]
IgnoreOption = Annotated[
    list[str] | None, typer.Option("--ignore", metavar="CODE", help="Mute a finding, for example FT012; repeatable.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")]
