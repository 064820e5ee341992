"""Stage ``export``: write the best model in Hugging Face format and compare logits with other libraries.

If the evaluation chose another winner than the model, write the winner instead, in a layout of our own.
"""

from typing import TYPE_CHECKING, Any

from finetune.recipe import Recipe
from finetune.run import Run

if TYPE_CHECKING:
    from finetune.export.exportable import Exported

READS = None  # its README names the run, and its card the whole recipe
NAMES_RUN = True
OUTPUTS = ("export/hf/*", "export/bundle/*", "export/bundle/model/*")


def run(recipe: Recipe, run: Run) -> "Exported":
    """Write export/hf/, or export/bundle/. Raises WeightsError if another library's logits differ from ours."""
    from finetune.console import say
    from finetune.evaluation.choice import MODEL
    from finetune.tasks.base import task_of

    task = task_of(recipe)
    if task.winner(run) == MODEL:
        return write(recipe, run, "hf")
    exported = task.export_winner(recipe, run)
    say(f"export: {exported.summary}")
    return exported


def write(
    recipe: Recipe, run: Run, format: str, quantize: str | None = None, all_texts: bool = False, part: str | None = None
) -> "Exported":
    """Write export/FORMAT/ in one of ``finetune.export.FORMATS``. Returns the result.

    quantize: one of the format's ``QUANTIZED``. all_texts: compare a classifier in Hugging Face's layout on all test
    texts; the other formats do so anyway, or say how many they compare. part: "model" writes the model even if it is
    not the winner. Raises RecipeError for an unknown quantization, or without `part` if the model is not the winner.
    """
    from importlib import import_module

    from finetune.console import say
    from finetune.errors import RecipeError
    from finetune.evaluation.choice import MODEL
    from finetune.export import FORMATS
    from finetune.tasks.base import task_of
    from finetune.tasks.setup import base_weights, best_model, trained_model

    writer = import_module(FORMATS[format])
    known = getattr(writer, "QUANTIZED", ())
    if quantize is not None and quantize not in known:
        raise RecipeError(
            f"the format {format} does not have this quantization",
            got=f"--quantize {quantize}",
            known=", ".join(known) or "no quantization",
        )
    winner = task_of(recipe).winner(run)
    if MODEL not in (winner, part):
        raise RecipeError(
            f"the format {format} can contain only the model, and this run's winner is not the model",
            got=f"{winner}, chosen on validation (evaluate.choose=best); it is in export/bundle",
            do="To export the model anyway, add --part model.",
        )
    model, tokenizer = (best_model if writer.MERGED else trained_model)(recipe, run)
    thing = task_of(recipe).exportable(recipe, run, model, tokenizer)
    options: dict[str, Any] = {"quantize": quantize} if quantize else {}
    options |= {"all_texts": True} if all_texts and format == "hf" else {}
    exported = writer.write(thing, run.path("export", format), base_weights(recipe, run), **options)
    say(f"export: {exported.summary}")
    return exported
