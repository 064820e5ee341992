"""The commands that look at models and at this machine: draw and doctor."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.console import say


def draw(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="architectures, positions, masks, attention, schedule, sampling, beams, or all."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output directory.")] = Path("pictures"),
    weights: Annotated[str | None, typer.Option(metavar="NAME|DIR", help="Weights to use; default: mini.")] = None,
    text: Annotated[str | None, typer.Option(help="Input text.")] = None,
    layer: Annotated[int | None, typer.Option(help="Layer to draw large, from 0; default: the middle one.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="PIPELINE|RECIPE.toml|recipe.json", help="Recipe whose schedule is drawn; default: spam-classifier."
        ),
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Top-k of the sampling picture.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Top-p of the sampling picture.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Min-p of the sampling picture.")] = None,
    beams: Annotated[int | None, typer.Option(help="Number of beams in the tree.")] = None,
) -> None:
    """Draw how it works, as PNG, SVG and one page: architectures, attention, masks, decoding."""
    from finetune.pictures.draw import Options
    from finetune.pictures.draw import draw as draw_pictures
    from finetune.pipeline import make_recipe

    options = Options(weights, text, layer, recipe, top_k, top_p, min_p, beams)
    say(str(draw_pictures(what, out, options, make_recipe(recipe or "spam-classifier").train)))


def doctor() -> None:
    """Check this machine; prints a summary to paste into a bug report."""
    from finetune.commands.doctor import show as show_doctor

    raise typer.Exit(show_doctor())
