"""Your own labels: fine-tune on any CSV or TSV file with a text and a label column.

`finetune classify my.csv` runs this pipeline. Columns called text and label (or message, class, ...) are found
by name; give other names with --text and --label. The report compares the model with a TF-IDF baseline.
"""

from finetune.recipe import Recipe
from finetune.stages import audit, download, evaluate, export, prepare, report, train, verify

recipe = Recipe(task="classify", weights="auto")
stages = [download, verify, prepare, train, evaluate, audit, report, export]
