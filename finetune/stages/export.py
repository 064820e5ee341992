"""Stage ``export``: the best model in Hugging Face's layout, compared with what other programs read."""


from finetune.recipe import Recipe
from finetune.run import Run

READS = None  # its README names the run, and its card the whole recipe
NAMES_RUN = True
OUTPUTS = ("export/hf/*",)


def run(recipe: Recipe, run: Run):
    """Write export/hf/. Raises WeightsError where another program gives other logits than we do."""
    from finetune.console import say
    from finetune.tasks.base import task_named
    from finetune.tasks.setup import best_model
    checked = task_named(recipe.task).export(recipe, run, *best_model(recipe, run))
    say(f"export: {checked['summary']}")
    return checked
