"""The commands that train: run, classify and compare-architectures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.options import (
    DryRunOption,
    EncodingOption,
    FreshOption,
    FromOption,
    IgnoreOption,
    NameOption,
    ProcessesOption,
    SetOption,
    UntilOption,
)
from finetune.errors import RecipeError

if TYPE_CHECKING:
    from finetune.recipe import Recipe

RUNS = Path("runs")


def run(
    target: Annotated[str, typer.Argument(metavar="PIPELINE|RECIPE.toml|recipe.json")],
    settings: SetOption = None,
    name: NameOption = None,
    first: FromOption = None,
    until: UntilOption = None,
    processes: ProcessesOption = 1,
    dry_run: DryRunOption = False,
    fresh: FreshOption = False,
) -> None:
    """Run a pipeline; the same command resumes a stopped run."""
    from finetune.pipeline import make_recipe

    _run(make_recipe(target, settings or []), name, first, until, processes, dry_run, fresh)


def classify(
    data: Annotated[str, typer.Argument(metavar="DATA", help="CSV, TSV, JSON, JSONL or Parquet; hf:NAME.")],
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
    weights: Annotated[str | None, typer.Option(metavar="NAME|DIR", help="Pretrained weights to start from.")] = None,
    method: Annotated[str | None, typer.Option(help="auto, full, last-blocks, head or lora.")] = None,
    encoding: EncodingOption = None,
    ignore: IgnoreOption = None,
    settings: SetOption = None,
    name: NameOption = None,
    first: FromOption = None,
    until: UntilOption = None,
    processes: ProcessesOption = 1,
    dry_run: DryRunOption = False,
    fresh: FreshOption = False,
) -> None:
    """Fine-tune a classifier on your own table."""
    from finetune.pipeline import classify_request, file_run_name

    request = classify_request(
        data,
        text=text,
        label=label,
        group=group,
        split=split,
        time=time,
        validation=validation,
        test=test,
        weights=weights,
        method=method,
        encoding=encoding,
        ignore=ignore or [],
        overrides=settings or [],
    )
    _run(request, file_run_name(data) if name is None else name, first, until, processes, dry_run, fresh)


def compare_architectures(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter trainings; takes minutes.")] = False,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="A labelled table; default: a bundled one.")] = None,
    text: Annotated[str | None, typer.Option(metavar="COL", help="Text column; several: A,B.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COL", help="The label column.")] = None,
    settings: SetOption = None,
    name: NameOption = None,
) -> None:
    """Compare encoder-only, decoder-only and encoder-decoder of equal size."""
    from finetune.comparisons.architectures.trainings import QUICK
    from finetune.config import merge
    from finetune.pipeline import make_recipe

    chosen = {"columns": {"text": text, "label": label}} | ({"data": data} if data else {})
    request = make_recipe("architectures", settings or [], merge(chosen, QUICK if quick else {}))
    _run(request, name, None, None, 1, False, False)


def _run(
    request: "Recipe",
    name: str | None,
    first: str | None,
    until: str | None,
    processes: int,
    dry_run: bool,
    fresh: bool,
) -> None:
    from finetune.execution import dry_run as show_plan
    from finetune.execution import execute, open_run
    from finetune.pipeline import load_pipeline, stage_names

    stages = load_pipeline(request.pipeline).stages
    stage_names(stages, first, until)
    if not request.data:
        command = (
            "finetune classify my.csv"
            if request.pipeline == "classify"
            else (f"finetune run {request.pipeline} --set data=my.tsv")
        )
        raise RecipeError("the recipe does not name any data", do=f"Give a file: {command}")
    if dry_run:
        show_plan(request, stages, processes)
        return
    opened, recipe = open_run(request, RUNS, name)
    execute(opened, recipe, stages, first=first, until=until, processes=processes, fresh=fresh)
