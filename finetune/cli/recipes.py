"""The commands for pipelines and their recipes: ls, show and cp."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.options import SetOption
from finetune.console import say
from finetune.errors import RecipeError


def ls() -> None:
    """List the pipelines."""
    from finetune.pipeline import describe_pipelines

    for name, line in describe_pipelines().items():
        say(f"{name:18} {line}")


def show(target: Annotated[str, typer.Argument(metavar="PIPELINE|RECIPE.toml")], settings: SetOption = None) -> None:
    """Print a full recipe as TOML, with a description of each key."""
    from finetune.pipeline import as_toml, make_recipe

    say(as_toml(make_recipe(target, settings or [])))


def cp(
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE")],
    file: Annotated[Path, typer.Argument(metavar="FILE.toml")],
) -> None:
    """Copy a pipeline's recipe to a TOML file for editing."""
    from finetune.files import atomic_write
    from finetune.pipeline import as_toml, make_recipe

    if file.suffix != ".toml":
        raise RecipeError("a recipe file must end in .toml", got=str(file))
    if file.exists():
        raise RecipeError(f"{file}: already exists", do="Choose another name.")
    recipe = make_recipe(pipeline)
    with atomic_write(file) as stream:
        stream.write(as_toml(recipe))
    say(f"{file}: run it with  finetune run {file}")
