"""Compare all fine-tuning methods on one split of the SMS Spam Collection, in one table.

Head alone, last block, last two, all weights, LoRA, all from a random start, and two usual faults: reading the first
token, and reading a pad. Each is trained under three seeds; the report shows accuracy and F1 with intervals, paired
tests against what `auto` would take, parameters, seconds and memory, with TF-IDF beside them. It takes about twenty
times as long as one spam-classifier of all weights; `--set methods.seeds=1` is a third of that.
"""

from finetune.comparisons.methods import stage as methods
from finetune.recipe import Recipe
from finetune.stages import download, prepare, report, verify

recipe = Recipe(task="classify", weights="auto", data="sms-spam")
stages = [download, verify, prepare, methods, report]
