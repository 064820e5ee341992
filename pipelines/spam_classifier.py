"""Spam or not: fine-tune GPT-2 on the SMS Spam Collection.

From 5,574 text messages (UCI, CC BY 4.0) and pretrained weights to a classifier, a report and a bundle that
`finetune predict` and transformers load. With GPT-2 124M only the last two blocks are trained: about ten minutes on two
cores, most of it in forward passes through the frozen blocks. With the bundled mini all weights are trained, in two
minutes. A TF-IDF baseline is hard to beat on this set; the report shows both. Without a network, the run uses the
weights and data that are available, and says which.
"""

from finetune.recipe import Evaluate, Recipe, Train
from finetune.stages import audit, download, evaluate, export, prepare, report, train, verify

recipe = Recipe(
    task="classify", weights="auto", data="sms-spam", train=Train(method="auto"), evaluate=Evaluate(metric="auto")
)
stages = [download, verify, prepare, train, evaluate, audit, report, export]
