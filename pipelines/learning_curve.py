"""Would more labels help? Train on 10, 25, 50 and 100 % of the rows, beside TF-IDF, and extrapolate.

`finetune classify my.csv --learning-curve` runs this pipeline. The small shares are trained several times on other rows,
as long as that costs no more than one training on all; together it takes about three times as long as one run. The
report shows both curves on the same test rows, says what twice as many labels are expected to bring, and how far the
same extrapolation from the smaller shares was off.
"""

from finetune.comparisons.learning_curve import stage as learning_curve
from finetune.recipe import Recipe
from finetune.stages import download, prepare, report, verify

recipe = Recipe(task="classify", weights="auto")
stages = [download, verify, prepare, learning_curve, report]
