"""Cross-validate a classifier on your own labels: every row is predicted once, by a model not trained on it.

`finetune classify my.csv --folds 5` runs this pipeline. It trains one model for each fold on the rows of the others,
beside TF-IDF on the same rows. The report gives means over the folds with intervals that allow for the training rows
they share, and predictions.csv holds every row. Meant for tables that are too small for a separate test set.
"""

from finetune.comparisons.folds import stage as folds
from finetune.recipe import Recipe
from finetune.stages import download, prepare, report, verify

recipe = Recipe(task="classify", weights="auto")
stages = [download, verify, prepare, folds, report]
