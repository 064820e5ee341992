"""Compare all fine-tuning methods on one split of the SMS Spam Collection, in one table.

The methods: only the head, logistic regression on the model's states, the last block, the last two blocks, all weights,
LoRA, all weights from a random start, and two common mistakes (classifying from the first token, and from a padding
token). Each is trained with three seeds. The report shows accuracy and F1 with intervals, paired tests against the
method that `auto` would choose, parameters, seconds and memory, next to a TF-IDF baseline. It takes about twenty times
as long as training all weights once; `--set methods.seeds=1` takes a third of that.
"""

from finetune.comparisons.methods import stage as methods
from finetune.recipe import Recipe
from finetune.stages import download, prepare, report, verify

recipe = Recipe(task="classify", weights="auto", data="sms-spam")
stages = [download, verify, prepare, methods, report]
