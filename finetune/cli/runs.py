"""The commands for a finished run: report and export."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.options import RunArgument
from finetune.console import say
from finetune.export import FORMATS


def report(run_directory: RunArgument) -> None:
    """Rebuild a run's report from its files."""
    from finetune.run import Run
    from finetune.stages.report import rebuild

    say(str(rebuild(Run.at(run_directory))))


def export(
    run_directory: RunArgument,
    format: Annotated[str, typer.Option(help=f"What to write: {', '.join(FORMATS)}.")] = "hf",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Output directory; default: inside the run.")] = None,
) -> None:
    """Export a run's weights for other libraries, and check that these give the same logits."""
    from finetune.commands.export import export_again

    say(str(export_again(run_directory, out, format)))
