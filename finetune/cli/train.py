"""The commands that train: run, classify and compare-architectures."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.cli.options import (
    RUNS,
    DryRunOption,
    EncodingOption,
    FreshOption,
    FromOption,
    GroupOption,
    IgnoreOption,
    LabelOption,
    LongTextsOption,
    NameOption,
    ProcessesOption,
    SeedsOption,
    SetOption,
    SplitOption,
    TestOption,
    TextOption,
    TimeOption,
    UntilOption,
    ValidationOption,
)
from finetune.cli.processes import run_process_count, start_processes
from finetune.errors import RecipeError
from finetune.training import ranks

if TYPE_CHECKING:
    from finetune.recipe import Recipe


def run(
    target: Annotated[str, typer.Argument(metavar="PIPELINE|RECIPE.toml|recipe.json")],
    settings: SetOption = None,
    name: NameOption = None,
    first: FromOption = None,
    until: UntilOption = None,
    processes: ProcessesOption = None,
    seeds: SeedsOption = None,
    dry_run: DryRunOption = False,
    fresh: FreshOption = False,
) -> None:
    """Run a pipeline; the same command resumes a stopped run."""
    from finetune.pipeline import make_recipe

    _run(make_recipe(target, _with_seeds(settings, seeds)), name, first, until, processes, dry_run, fresh)


def classify(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A table, a folder with one subfolder of texts per label, or hf:NAME; -: stdin."
        ),
    ],
    text: TextOption = None,
    label: LabelOption = None,
    validation: ValidationOption = None,
    test: TestOption = None,
    group: GroupOption = None,
    split: SplitOption = None,
    time: TimeOption = None,
    folds: Annotated[
        int | None, typer.Option(metavar="K", min=2, help="Cross-validate: predict every row once, in K trainings.")
    ] = None,
    learning_curve: Annotated[
        bool, typer.Option("--learning-curve", help="Train on 10 to 100 % of the rows: would more labels help?")
    ] = False,
    weights: Annotated[str | None, typer.Option(metavar="NAME|DIR", help="Pretrained weights to start from.")] = None,
    method: Annotated[str | None, typer.Option(help="auto, full, last-blocks, head, features or lora.")] = None,
    long_texts: LongTextsOption = None,
    encoding: EncodingOption = None,
    ignore: IgnoreOption = None,
    seeds: SeedsOption = None,
    settings: SetOption = None,
    name: NameOption = None,
    first: FromOption = None,
    until: UntilOption = None,
    processes: ProcessesOption = None,
    dry_run: DryRunOption = False,
    fresh: FreshOption = False,
) -> None:
    """Fine-tune a classifier on your own table."""
    from finetune.pipeline import classify_request, file_run_name
    from finetune.tables.standard_input import table_name

    with table_name(data, None if dry_run else RUNS / "tables") as data:
        request = classify_request(
            data,
            text=text,
            label=label,
            group=group,
            split=split,
            time=time,
            folds=folds,
            learning_curve=learning_curve,
            validation=validation,
            test=test,
            weights=weights,
            method=method,
            long_texts=long_texts,
            encoding=encoding,
            ignore=ignore or [],
            overrides=_with_seeds(settings, seeds),
        )
        named = file_run_name(data, request.pipeline) if name is None else name
        _run(request, named, first, until, processes, dry_run, fresh)


def compare_architectures(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter trainings; takes minutes.")] = False,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="A labelled table; default: a bundled one.")] = None,
    text: TextOption = None,
    label: LabelOption = None,
    settings: SetOption = None,
    name: NameOption = None,
) -> None:
    """Compare encoder-only, decoder-only and encoder-decoder models of equal size."""
    from finetune.comparisons.architectures.trainings import QUICK
    from finetune.config import merge
    from finetune.pipeline import make_recipe

    chosen = {"columns": {"text": text, "label": label}} | ({"data": data} if data else {})
    request = make_recipe("architectures", settings or [], merge(chosen, QUICK if quick else {}))
    _run(request, name, None, None, 1, False, False)


def _with_seeds(settings: list[str] | None, seeds: int | None) -> list[str]:
    """The settings of the command line, with those of --seeds."""
    return [*(settings or []), *([f"evaluate.seeds={seeds}"] if seeds else [])]


def _run(
    request: "Recipe",
    name: str | None,
    first: str | None,
    until: str | None,
    processes: int | None,
    dry_run: bool,
    fresh: bool,
) -> None:
    from finetune.execution import check_settings
    from finetune.execution import dry_run as show_plan
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
    count = run_process_count(processes, request)
    if dry_run:
        show_plan(request, stages, count)
        return
    work: dict[str, Any] = {
        "request": request.model_dump(mode="json"),
        "name": name,
        "first": first,
        "until": until,
        "fresh": fresh,
    }
    if count == ranks.processes():
        run_request(**work)
        return
    check_settings(request, count)  # so that mistakes are reported before the processes start
    start_processes(count, "run", work)


def run_request(request: dict, name: str | None, first: str | None, until: str | None, fresh: bool) -> None:
    """Open the run for a request and execute its stages, with all processes that were started."""
    from finetune.execution import execute, open_run
    from finetune.pipeline import load_pipeline
    from finetune.recipe import Recipe

    asked = Recipe.model_validate(request)
    stages, count = load_pipeline(asked.pipeline).stages, ranks.processes()
    opened, recipe = open_run(asked, RUNS, name, count)
    execute(opened, recipe, stages, first=first, until=until, processes=count, fresh=fresh)
