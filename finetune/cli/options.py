"""The options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting.")]
NameOption = Annotated[str | None, typer.Option(help="The run's name under runs/.")]
FromOption = Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Rerun this stage and all later ones.")]
UntilOption = Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")]
ProcessesOption = Annotated[int, typer.Option(min=1, help="Number of training processes (torchrun).")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Rerun every stage; reuse nothing from other runs.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan with estimated time and memory; keep nothing.")
]
EncodingOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Encoding of input tables that are not UTF-8.")
]
IgnoreOption = Annotated[
    list[str] | None, typer.Option("--ignore", metavar="CODE", help="Mute a finding, for example FT012; repeatable.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")]
