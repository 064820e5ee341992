"""Your own labels: fine-tune on any CSV or TSV file with a text and a label column.

`finetune classify my.csv` runs this pipeline. Columns called text and label (or message, class, ...) are found
by their names; others are named with --text and --label. The report says how much better than TF-IDF it is.
"""

from finetune.recipe import Recipe
from finetune.stages import download, evaluate, export, prepare, report, train, verify

recipe = Recipe(task="classify", weights="auto")
stages = [download, verify, prepare, train, evaluate, report, export]
