"""The commands for a finished run: report, compare, export and push."""

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


def compare(
    run_directories: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of the page; default: beside the first run.")
    ] = None,
) -> None:
    """Compare classifiers' runs on the same test rows: one table, paired tests, and the rows that differ."""
    from finetune.commands.compare import compare as compare_runs

    for line in compare_runs(run_directories, out):
        say(line)


def export(
    run_directory: RunArgument,
    format: Annotated[str, typer.Option(help=f"What to write: {', '.join(FORMATS)}.")] = "hf",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Output directory; default: inside the run.")] = None,
    quantize: Annotated[
        str | None, typer.Option(metavar="KIND", help="Smaller numbers; onnx: int8; gguf: f16, q8_0.")
    ] = None,
) -> None:
    """Export a run's weights for other libraries, and check that these give the same logits."""
    from finetune.commands.export import export_again

    say(str(export_again(run_directory, out, format, quantize)))


def push(
    run_directory: RunArgument,
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The model's name on the Hugging Face hub.")],
    public: Annotated[bool, typer.Option("--public", help="For everyone; default: private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show every file and send nothing.")] = False,
) -> None:
    """Push a run's export to the Hugging Face hub, and compare what comes back."""
    from finetune.commands.push import push as send

    say(send(run_directory, repo, public, dry_run))
