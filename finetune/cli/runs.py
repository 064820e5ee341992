"""The commands for a finished run: report, compare, runs, export, push and labels."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.options import RUNS, RunArgument
from finetune.console import say
from finetune.errors import RecipeError
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
    """Compare runs on the same test rows: one table, paired tests, and the rows on which they differ."""
    from finetune.commands.compare import compare as compare_runs

    for line in compare_runs(run_directories, out):
        say(line)


def export(
    run_directory: RunArgument,
    format: Annotated[str, typer.Option(help=f"Export format: {', '.join(FORMATS)}.")] = "hf",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Output directory; default: inside the run.")] = None,
    quantize: Annotated[
        str | None, typer.Option(metavar="KIND", help="Quantize the weights; onnx: int8; gguf: f16, q8_0, q4_0.")
    ] = None,
    all_texts: Annotated[
        bool, typer.Option("--all-texts", help="hf: compare a classifier on all test texts, not on a sample.")
    ] = False,
    part: Annotated[
        str | None, typer.Option(metavar="model", help="Export the model even if another candidate won on validation.")
    ] = None,
) -> None:
    """Export a run's weights for other libraries, and check that these give the same logits."""
    from finetune.commands.export import export_again

    say(str(export_again(run_directory, out, format, quantize, all_texts, part)))


def push(
    run_directory: RunArgument,
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The model's name on the Hugging Face hub.")],
    public: Annotated[bool, typer.Option("--public", help="Make the repository public; default: private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show every file and send nothing.")] = False,
) -> None:
    """Push a run's export to the Hugging Face hub, and check the uploaded files."""
    from finetune.commands.push import push as send

    say(send(run_directory, repo, public, dry_run))


def runs(
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete checkpoints of finished runs that neither resume nor export reads.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: do not ask for confirmation.")] = False,
) -> None:
    """List all runs in runs/ with state, main metric, size and age; or free checkpoints that nothing needs."""
    from finetune.commands import runs as all_runs
    from finetune.pipeline import load_pipeline, stage_name
    from finetune.report.blocks import bytes_text

    def stages_of(pipeline: str) -> list[str]:
        return [stage_name(stage) for stage in load_pipeline(pipeline).stages]

    if not prune:
        if yes:
            raise RecipeError("--yes needs --prune", do="Leave it out, or add --prune.")
        for line in all_runs.list_runs(RUNS, stages_of):
            say(line)
        return
    found, lines = all_runs.prunable(RUNS, stages_of)
    if not found:
        say("nothing to free: all checkpoints of finished runs are needed")
        return
    for line in lines:
        say(line)
    if not yes:
        if not sys.stdin.isatty():
            raise RecipeError("--prune asks for confirmation, and there is no terminal to answer on", do="Add --yes.")
        typer.confirm("Delete these checkpoints?", abort=True)
    say(f"freed {bytes_text(all_runs.prune(found, stages_of))}")


def labels(
    run_directory: RunArgument,
    apply: Annotated[
        Path | None,
        typer.Option(metavar="FIXES.csv", help="Train again with these corrections: columns row, label, drop."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The new run's name; default: RUN-fixed.")] = None,
) -> None:
    """List the rows whose label may be wrong, or train again on corrected rows."""
    from finetune.commands.labels import before_and_after, list_suspects

    if apply is None:
        if name is not None:
            raise RecipeError("--name needs --apply", got=repr(name), do="Leave it out, or give --apply FIXES.csv.")
        for line in list_suspects(run_directory):
            say(line)
        return
    from finetune.execution import execute, open_run
    from finetune.pipeline import load_pipeline, make_recipe
    from finetune.run import Run

    earlier = Run.at(run_directory)
    earlier.record("evaluate")  # or RunError: nothing to compare with
    here = run_directory.resolve()
    if apply.resolve().is_relative_to(here):
        raise RecipeError(
            f"{apply}: this file belongs to the run and may be overwritten", do="Copy it, and give the corrected copy."
        )
    fixes = [*earlier.recipe().classify.fixes, str(apply.resolve())]
    request = make_recipe(str(earlier.path("recipe.json")), [], {"classify": {"fixes": fixes}})
    opened, recipe = open_run(request, here.parent, name or f"{here.name.removesuffix('-fixed')[:56]}-fixed")
    execute(opened, recipe, load_pipeline(request.pipeline).stages)
    for line in before_and_after(run_directory, opened.directory):
        say(line)
