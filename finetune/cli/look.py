"""The commands that show models and check this machine: draw, xray and doctor."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.console import say
from finetune.errors import RecipeError
from finetune.pictures.options import ALL, READS, Options, chosen_kinds


def draw(
    what: Annotated[str, typer.Argument(metavar="WHAT", help=f"{', '.join(READS)}, or {ALL}.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output directory.")] = Path("pictures"),
    weights: Annotated[str | None, typer.Option(metavar="NAME|DIR", help="Weights to use; default: mini.")] = None,
    text: Annotated[str | None, typer.Option(help="Input text.")] = None,
    layer: Annotated[int | None, typer.Option(help="Layer to draw large, from 0; default: the middle layer.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="PIPELINE|RECIPE.toml|recipe.json", help="Recipe whose schedule is drawn; default: spam-classifier."
        ),
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="The k of top-k in the sampling picture.")] = None,
    top_p: Annotated[float | None, typer.Option(help="The p of top-p in the sampling picture.")] = None,
    min_p: Annotated[float | None, typer.Option(help="The p of min-p in the sampling picture.")] = None,
    beams: Annotated[int | None, typer.Option(help="Number of beams in the beam search picture.")] = None,
) -> None:
    """Draw architectures, attention, masks, decoding and more as PNG and SVG files and one page."""
    options = Options(weights, text, layer, recipe, top_k, top_p, min_p, beams)
    chosen_kinds(what, options)  # before the imports, which take seconds
    from finetune.pictures.draw import draw as draw_pictures
    from finetune.pipeline import make_recipe

    say(str(draw_pictures(what, out, options, make_recipe(recipe or "spam-classifier").train)))


def xray(
    model: Annotated[str, typer.Argument(metavar="RUN|CHECKPOINT", help="A classifier or a language model.")],
    text: Annotated[str, typer.Option(help="Input text.")],
    against: Annotated[
        str | None, typer.Option(metavar="BASE", help="Weights to show beside it, such as those it started from.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page.")] = Path("xray.html"),
) -> None:
    """Show what each layer predicts for a text, attention, surprise, and which weights changed, as one HTML file."""
    from finetune.commands.xray.xray import xray as write_page

    say(write_page(model, text, against, out))


def doctor(
    run_directory: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Check this run's files.")] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Take a few training steps of RUN and show where their time goes.")
    ] = False,
) -> None:
    """Print a summary of this machine for a bug report; with RUN, check the run's files or profile its training."""
    if profile:
        if run_directory is None:
            raise RecipeError("--profile needs a run", do="For example: finetune doctor --profile runs/spam-classifier")
        from finetune.commands.profile import profile_run

        for line in profile_run(run_directory):
            say(line)
        return
    from finetune.commands.check_run import examine_run
    from finetune.commands.doctor import examine
    from finetune.commands.doctor import show as show_checks

    raise typer.Exit(show_checks(examine_run(run_directory) if run_directory else examine()))
