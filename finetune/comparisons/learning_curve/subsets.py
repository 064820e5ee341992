"""Choose the rows of each training of a learning curve."""

import numpy as np

from finetune.recipe import Recipe


def trainings(recipe: Recipe) -> list[tuple[float, int]]:
    """Share and seed of each training; small shares are drawn repeatedly, for at most the cost of one training on all rows."""
    settings = recipe.learning_curve
    return [
        (share, recipe.train.seed + number)
        for share in settings.shares
        for number in range(max(1, min(settings.seeds, int(1 / share + 1e-9))))
    ]


def draw_rows(targets: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The sorted positions of a stratified share of the rows with labels `targets` (n,), with at least one row per label.

    With the same seed, the rows of a smaller share are a subset of those of a larger one.
    """
    generator = np.random.default_rng(seed)
    labels, numbers, counts = np.unique(targets, return_inverse=True, return_counts=True)
    order = generator.permutation(len(targets))
    rank = np.empty(len(targets))
    for label in range(len(labels)):
        own = order[numbers[order] == label]
        rank[own] = (np.arange(len(own)) + generator.random()) / counts[label]
        rank[own[0]] = -1.0  # every label has a row, however small the share
    wanted = max(len(labels), round(share * len(targets)))
    return np.sort(np.argsort(rank, kind="stable")[:wanted])
