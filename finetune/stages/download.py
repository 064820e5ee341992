"""Stage ``download``: fetch data and weights and verify their hashes."""

from finetune.recipe import Recipe
from finetune.records import DataOrigin, Downloaded, WeightsOrigin
from finetune.run import Run

READS = ("task", "weights", "data")
OUTPUTS: tuple[str, ...] = ()


def resolve(recipe: Recipe) -> Recipe:
    """Fetch the data. If they are not available, the returned recipe names the bundled sample instead."""
    from finetune.tasks.base import task_of

    return task_of(recipe).resolve(recipe, fetch=True)


def external(recipe: Recipe) -> dict[str, str]:
    """Hashes of inputs that may change under a run: the data, and weights that the registry does not pin."""
    from finetune.checkpoints.sources import is_made_in_run, locate_weights
    from finetune.files import sha256_tree
    from finetune.tasks.base import task_of

    files = task_of(recipe).files(recipe)
    found = {f"{what}'s content": sha256_tree(path) for what, path in files.items()}
    if not is_made_in_run(recipe.weights):
        weights = locate_weights(recipe.weights)
        if not weights.pinned:
            found |= {f"the weights' {name}": digest for name, digest in weights.content().items()}
    return found


def run(recipe: Recipe, run: Run) -> Downloaded:
    """Fetch data, then weights, and check every hash; unusable data fail before weights are downloaded."""
    from finetune.checkpoints.sources import is_made_in_run, locate_weights
    from finetune.console import say
    from finetune.files import sha256_tree
    from finetune.tasks.base import task_of

    task = task_of(recipe)
    data = task.locate(recipe)
    task.check_data(recipe)
    say(f"data: {data.name} ({data.source})")
    if is_made_in_run(recipe.weights):
        weights = WeightsOrigin(recipe.weights, "randomly initialised from the seed", "", {})
    else:
        found = locate_weights(recipe.weights, fetch=True)
        weights = WeightsOrigin(found.name, found.source, found.licence, found.content())
    return Downloaded(
        weights, DataOrigin(data.name, data.path.name, data.source, data.licence, data.citation, sha256_tree(data.path))
    )
