"""Stage ``download``: weights and data are on this machine and are what they should be."""

from finetune.checkpoints.fallback import RANDOM_BYTES, SCRATCH
from finetune.checkpoints.sources import locate_weights
from finetune.console import say
from finetune.datasets.exclusion import evaluation_files
from finetune.datasets.sources import locate_data, locate_text
from finetune.files import sha256_file, sha256_tree
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.stages.by_task import task_of

OUTPUTS: list[str] = []


def outside(recipe: Recipe) -> dict[str, str]:
    """What could change under a run: the data, and weights that no registry pins, by their hashes."""
    found = {"the data's content": sha256_tree(task_of(recipe).locate(recipe).path)}
    for what, name in (("validation", recipe.validation), ("test", recipe.test)):
        found |= {f"the {what} file's content": sha256_tree(locate_data(name).path)} if name else {}
    if recipe.pretrain.eval_data:
        found["the evaluation text's content"] = sha256_tree(locate_text(recipe.pretrain.eval_data).path)
    for file in evaluation_files(recipe.pretrain.exclude):
        found[f"the content of {file}"] = sha256_file(file)
    if recipe.weights not in (RANDOM_BYTES, SCRATCH):
        weights = locate_weights(recipe.weights)
        if not weights.pinned:
            found |= {f"the weights' {name}": digest for name, digest in weights.content().items()}
    return found


def run(recipe: Recipe, run: Run) -> dict:
    """Fetch what the recipe names, every hash checked; data that cannot be used are found before any download."""
    task = task_of(recipe)
    data = task.locate(recipe)
    task.check(recipe)
    say(f"data: {data.name} ({data.source})")
    if recipe.weights in (RANDOM_BYTES, SCRATCH):
        weights = {"name": recipe.weights, "source": "random, seeded; nothing pretrained", "licence": "", "sha256": {}}
    else:
        found = locate_weights(recipe.weights, fetch=True)
        weights = {"name": found.name, "source": found.source, "licence": found.licence, "sha256": found.content()}
    return {"weights": weights, "outside": outside(recipe),
            "data": {"name": data.name, "file": data.path.name, "source": data.source, "licence": data.licence,
                     "citation": data.citation, "sha256": sha256_tree(data.path)}}
