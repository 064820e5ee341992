"""Stage ``download``: weights and data are on this machine and are what they should be."""

from finetune.checkpoints.fallback import RANDOM_BYTES, SCRATCH
from finetune.checkpoints.sources import locate_weights
from finetune.console import say
from finetune.datasets.sources import DataSource, locate_data, locate_text
from finetune.files import sha256_file, sha256_tree
from finetune.recipe import Recipe
from finetune.run import Run

OUTPUTS: list[str] = []


def outside(recipe: Recipe) -> dict[str, str]:
    """The data file's hash: a file that changed is another input."""
    return {"data file": sha256_tree(locate(recipe).path)}


def locate(recipe: Recipe) -> DataSource:
    """The recipe's data: a table, or plain text for pretraining."""
    return locate_text(recipe.data) if recipe.task == "pretrain" else locate_data(recipe.data)


def run(recipe: Recipe, run: Run) -> dict:
    """Fetch what the recipe names; every hash is checked here, and only here."""
    if recipe.weights in (RANDOM_BYTES, SCRATCH):
        weights = {"name": recipe.weights, "source": "random, seeded; nothing pretrained", "licence": ""}
    else:
        found = locate_weights(recipe.weights, fetch=True)
        files = {path.name: sha256_file(path) for path in sorted(found.directory.glob("*.safetensors"))}
        weights = {"name": found.name, "source": found.source, "licence": found.licence, "sha256": files}
    data = locate(recipe)
    say(f"data: {data.name} ({data.source})")
    return {"weights": weights, "data": {"name": data.name, "file": data.path.name, "source": data.source,
                                         "licence": data.licence, "citation": data.citation,
                                         "sha256": sha256_tree(data.path)}}
